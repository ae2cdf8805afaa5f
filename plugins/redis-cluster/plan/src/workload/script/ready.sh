#!/bin/sh
# Readiness probe: succeeds if the server answers and has loaded its data, whatever the state of the cluster.
# An empty value means no password, but redis-cli would send it.
[ -n "${REDISCLI_AUTH:-}" ] || unset REDISCLI_AUTH
[ "$(timeout 1 redis-cli -h "$POD_IP" -p "$PORT" ping 2>/dev/null)" = PONG ] || exit 1
# The data was loaded completely.
rm -f "${RUN_DIR:-/run/redis}/starting"
