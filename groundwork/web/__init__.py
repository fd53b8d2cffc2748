"""What every HTTP service of the platform has: problems, limits, request ids, access logs, health routes. Needs the extra `app`."""

from groundwork.web.app import create_app
from groundwork.web.guard import Guard, requires
from groundwork.web.problem import Problem, ProblemError

__all__ = ["Guard", "Problem", "ProblemError", "create_app", "requires"]
