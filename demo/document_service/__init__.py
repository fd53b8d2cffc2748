"""Documents: kept in PostgreSQL, indexed through RabbitMQ, read from Redis. `python -m demo.document_service`."""
