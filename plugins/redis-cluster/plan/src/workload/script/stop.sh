#!/bin/sh
# preStop hook: waits until a replica has taken over, at most HAND_OVER_S seconds. Tholepin starts the failover when
# the Pod is being deleted.
# An empty value means no password, but redis-cli would send it.
[ -n "${REDISCLI_AUTH:-}" ] || unset REDISCLI_AUTH
end=$(($(date +%s) + HAND_OVER_S))
while [ "$(date +%s)" -lt "$end" ]; do
    state=$(timeout 1 redis-cli -h "$POD_IP" -p "$PORT" info replication 2>/dev/null) || exit 0
    case $state in
        *role:slave*) exit 0 ;;          # a replica took over
        *connected_slaves:0*) exit 0 ;;  # there is no replica
    esac
    sleep 0.1
done
exit 0
