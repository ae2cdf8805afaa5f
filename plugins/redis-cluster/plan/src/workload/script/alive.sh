#!/bin/sh
# Alive: waiting in the start guard, or answering anything at all, an error too.
# An empty password means that there is none; redis-cli would send it all the same.
[ -n "${REDISCLI_AUTH:-}" ] || unset REDISCLI_AUTH
[ -e "${RUN_DIR:-/run/redis}/guard" ] && exit 0
[ -n "$(timeout 4 redis-cli -h "$POD_IP" -p "$PORT" ping 2>/dev/null)" ]
