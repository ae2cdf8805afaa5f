#!/bin/sh
# Ready: the server answers and has read its data. What the cluster thinks of itself does not matter.
# An empty password means that there is none; redis-cli would send it all the same.
[ -n "${REDISCLI_AUTH:-}" ] || unset REDISCLI_AUTH
[ "$(timeout 1 redis-cli -h "$POD_IP" -p "$PORT" ping 2>/dev/null)" = PONG ] || exit 1
# What it read was whole.
rm -f "${RUN_DIR:-/run/redis}/starting"
