"""Makes an engine's accounts agree with what the platform declares: `python -m app.accounts postgres|rabbitmq|consul`.

Run by a Job for each change and by a CronJob against lost volumes. It may run at any time and any number of times: it reads what is there,
changes what differs, takes the login of clients that are no longer declared, and never drops data. At the end it logs in as each client.
"""
