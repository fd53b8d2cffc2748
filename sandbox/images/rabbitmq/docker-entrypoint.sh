#!/bin/sh
# Nothing to prepare: the server reads its settings from files and variables itself.
set -eu
exec "$@"
