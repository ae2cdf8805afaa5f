#!/bin/sh
# Ready: the server answers and has read its data. What the cluster thinks of itself does not matter.
[ "$(timeout 1 redis-cli -h "$POD_IP" -p "$PORT" ping 2>/dev/null)" = PONG ]
