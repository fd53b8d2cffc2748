"""Makes an engine's accounts agree with what the platform declares: `python -m app.accounts postgres|redis|rabbitmq|consul`.

Run by a Job before dependents roll, by a second one (`retire`) when they have, and by a CronJob against lost volumes. It may run at any time
and any number of times: it reads what is there, changes what differs, and never drops data. Two generations of each account live at once,
so that a rotation refuses nobody; a run of a generation that is past changes nothing. It also sees to it that the engine shows the
certificate that it ought to show. At the end it logs in as each client.
"""
