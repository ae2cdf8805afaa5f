#!/bin/sh
# Liveness probe: succeeds while the start guard waits, or if the server answers anything, even an error.
# An empty value means no password, but redis-cli would send it.
[ -n "${REDISCLI_AUTH:-}" ] || unset REDISCLI_AUTH
[ -e "${RUN_DIR:-/run/redis}/guard" ] && exit 0
[ -n "$(timeout 4 redis-cli -h "$POD_IP" -p "$PORT" ping 2>/dev/null)" ]
