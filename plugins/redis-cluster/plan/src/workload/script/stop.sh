#!/bin/sh
# Before the server stops: lets a replica take over. Tholepin does that when it sees the Pod being
# deleted; this only waits for it, up to HAND_OVER_S seconds.
# An empty password means that there is none; redis-cli would send it all the same.
[ -n "${REDISCLI_AUTH:-}" ] || unset REDISCLI_AUTH
end=$(($(date +%s) + HAND_OVER_S))
while [ "$(date +%s)" -lt "$end" ]; do
    state=$(timeout 1 redis-cli -h "$POD_IP" -p "$PORT" info replication 2>/dev/null) || exit 0
    case $state in
        *role:slave*) exit 0 ;;          # another took over
        *connected_slaves:0*) exit 0 ;;  # nobody could
    esac
    sleep 0.1
done
exit 0
