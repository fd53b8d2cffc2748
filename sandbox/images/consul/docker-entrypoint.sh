#!/bin/sh
# Words without a program are Consul's; `agent` gets the folders and interfaces that the variables name, as in the official image.
# CONSUL_DISABLE_PERM_MGMT has nothing to switch off here: this image never runs as root and changes no owner.
set -eu

interface_address() { # variable, option
  eval "interface=\${$1:-}"
  if [ -z "$interface" ]; then return; fi
  address=$(ip -o -4 addr list "$interface" | head -n1 | awk '{print $4}' | cut -d/ -f1)
  if [ -z "$address" ]; then
    echo "$1 is $interface, which has no address" >&2
    exit 1
  fi
  echo "$2=$address"
}

data=${CONSUL_DATA_DIR:-/consul/data}
config=${CONSUL_CONFIG_DIR:-/consul/config}
if [ -n "${CONSUL_LOCAL_CONFIG:-}" ]; then
  printf '%s\n' "$CONSUL_LOCAL_CONFIG" > "$config/local.json"
fi

case ${1:-} in
  -*) set -- consul "$@" ;;
  agent)
    shift
    # shellcheck disable=SC2046
    set -- consul agent -data-dir="$data" -config-dir="$config" \
      $(interface_address CONSUL_BIND_INTERFACE -bind) $(interface_address CONSUL_CLIENT_INTERFACE -client) "$@"
    ;;
  ?*) if consul --help "$1" 2>&1 | grep -q "^Usage: consul $1"; then set -- consul "$@"; fi ;;
esac

exec "$@"
