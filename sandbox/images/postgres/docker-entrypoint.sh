#!/bin/sh
# Fills an empty PGDATA once, then becomes the server: the variables and folders mean what they mean in the official image.
set -eu

# VAR or the content of the file that VAR_FILE names, never both.
from_file() {
  eval "value=\${$1:-} file=\${$1_FILE:-}"
  if [ -n "$value" ] && [ -n "$file" ]; then
    echo "both $1 and $1_FILE are set: set one" >&2
    exit 1
  fi
  if [ -n "$file" ]; then value=$(cat "$file"); fi
  if [ -z "$value" ]; then value=${2:-}; fi
  eval "$1=\$value"
  unset "$1_FILE"
}

run_init_files() {
  for script in /docker-entrypoint-initdb.d/*; do
    case $script in
      *.sh) if [ -x "$script" ]; then "$script"; else . "$script"; fi ;;
      *.sql) psql -v ON_ERROR_STOP=1 --no-psqlrc --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" --file "$script" ;;
    esac
  done
}

initialise() {
  if [ -z "$POSTGRES_PASSWORD" ] && [ "${POSTGRES_HOST_AUTH_METHOD:-}" != trust ]; then
    echo "no password for the superuser: set POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE" >&2
    exit 1
  fi
  password_file=$(umask 077 && mktemp)
  printf '%s\n' "$POSTGRES_PASSWORD" > "$password_file"
  wal=${POSTGRES_INITDB_WALDIR:+--waldir=$POSTGRES_INITDB_WALDIR}
  # The arguments are words of their own, as in the official image.
  # shellcheck disable=SC2086
  initdb --username="$POSTGRES_USER" --pwfile="$password_file" $wal $POSTGRES_INITDB_ARGS
  rm -f "$password_file"
  printf '\nhost all all all %s\n' "${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}" >> "$PGDATA/pg_hba.conf"

  # For a moment the server answers on its own socket only.
  shift
  options="-c listen_addresses='' -p ${PGPORT:-5432}"
  for word in "$@"; do options="$options '$(printf %s "$word" | sed "s/'/'\\\\''/g")'"; done
  PGUSER=$POSTGRES_USER pg_ctl -D "$PGDATA" -o "$options" -w start
  export PGPASSWORD="$POSTGRES_PASSWORD"
  if [ "$POSTGRES_DB" != postgres ]; then
    psql -v ON_ERROR_STOP=1 --no-psqlrc --username "$POSTGRES_USER" --dbname postgres --set db="$POSTGRES_DB" <<'SQL'
CREATE DATABASE :"db";
SQL
  fi
  run_init_files
  unset PGPASSWORD
  PGUSER=$POSTGRES_USER pg_ctl -D "$PGDATA" -m fast -w stop
}

case ${1:-} in -*) set -- postgres "$@" ;; esac

if [ "${1:-}" = postgres ]; then
  from_file POSTGRES_PASSWORD
  from_file POSTGRES_USER postgres
  from_file POSTGRES_DB "$POSTGRES_USER"
  from_file POSTGRES_INITDB_ARGS
  mkdir -p "$PGDATA"
  chmod 0700 "$PGDATA" || true
  if [ ! -s "$PGDATA/PG_VERSION" ]; then
    export POSTGRES_USER POSTGRES_DB POSTGRES_PASSWORD
    initialise "$@"
  fi
  unset POSTGRES_PASSWORD
fi

exec "$@"
