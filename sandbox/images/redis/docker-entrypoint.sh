#!/bin/sh
# An option or a configuration file alone means the server, as in the official image.
set -eu

case ${1:-} in -* | *.conf) set -- redis-server "$@" ;; esac

# Files of the server are its own business.
if [ "$(umask)" = 0022 ]; then umask 0077; fi

exec "$@"
