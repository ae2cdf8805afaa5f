#!/bin/sh
# Starts the server as soon as that cannot harm the data of other members.
# Environment: POD_IP, POD_UID, PORT, NODES (the DNS name of all members), INSTANCE, DURABLE (yes|no), and
# REDISCLI_AUTH, which is empty if there is no password.
set -eu
umask 077
# An empty value means no password, but redis-cli would send it.
[ -n "${REDISCLI_AUTH:-}" ] || unset REDISCLI_AUTH
data=${DATA_DIR:-/data}
run=${RUN_DIR:-/run/redis}
conf=${CONF_DIR:-/etc/redis}
podinfo=${PODINFO_DIR:-/etc/podinfo}
started=$(date +%s)
cd "$data"

say() { printf 'start guard: %s\n' "$1" >&2; }

ask() { # HOST PORT: prints the reply of that peer to CLUSTER NODES
    timeout 1 redis-cli -h "$1" -p "$2" cluster nodes 2>/dev/null
}

has_data() {
    for file in dump.rdb appendonly.aof appendonlydir/*.rdb appendonlydir/*.aof; do
        if [ -s "$file" ]; then return 0; fi
    done
    return 1
}

# Refuses a volume of another cluster: its nodes.conf names that cluster's nodes.
if [ -s instance ] && [ "$(cat instance)" != "$INSTANCE" ]; then
    say "this volume belongs to $(cat instance), not to $INSTANCE; give this Pod a volume of its own"
    exit 1
fi
printf '%s\n' "$INSTANCE" > instance

if [ "$DURABLE" = no ]; then
    # Files that a synchronisation left behind are old; serving them would undo writes.
    rm -f dump.rdb temp-*.rdb
fi

# Without its manifest the server would ignore the append-only files and start empty.
if [ -d appendonlydir ] && [ -n "$(ls appendonlydir)" ] \
    && ! ls appendonlydir/*.manifest >/dev/null 2>&1; then
    say "appendonlydir has files but no manifest; restore the manifest or move the directory away"
    exit 1
fi

# With damaged files the server would never start. If another member answers as the owner of this member's slots and
# has loaded its data, the files are set aside (one copy per Pod) and this member joins again. The only copy is
# never touched.
own_row() { # prints the row `myself` of nodes.conf, as far as it is complete
    awk '$3 ~ /myself/ { print; exit }' nodes.conf 2>/dev/null
}

seeds() { # prints addresses of other members: those in nodes.conf, and those behind the Service
    awk '$3 !~ /myself|noaddr|handshake/ && $2 ~ /^[0-9a-f.:]+@/ { split($2, at, "@"); print at[1] }' nodes.conf 2>/dev/null
    getent ahostsv4 "$NODES" 2>/dev/null | awk -v port="$PORT" '!seen[$1]++ { print $1 ":" port }'
}

owner_answers() { # succeeds if the owner of this member's slots reports them itself and has loaded its data
    mine=$(own_row)
    for seed in $(seeds); do
        [ "$seed" != "$POD_IP:$PORT" ] || continue
        nodes=$(ask "${seed%:*}" "${seed##*:}") || continue
        printf '%s\n' "$nodes" | awk -v mine="$mine" -v here="$POD_IP:$PORT" '
            function each(range, set,    ends, slot, last) {
                if (range !~ /^[0-9]+(-[0-9]+)?$/) return 1
                split(range, ends, "-")
                last = ends[2] == "" ? ends[1] : ends[2]
                for (slot = ends[1] + 0; slot <= last + 0; slot++) {
                    if (set) { owned[slot] = 1; count++ }
                    else if (!(slot in owned)) return 0
                }
                return 1
            }
            BEGIN { fields = split(mine, own, " "); if (own[3] ~ /slave/) primary = own[4] }
            { split($2, at, "@") }
            $3 ~ /myself/ { id = $1; serves = $3 ~ /master/; for (i = 9; i <= NF; i++) each($i, 1) }
            $3 ~ /slave/ && ($1 == own[1] || at[1] == here) { primary = $4 }
            END {
                if (!serves || !count) exit 1
                if (primary == id) exit 0
                if (own[3] !~ /master/ || fields < 9) exit 1
                for (i = 9; i <= fields; i++) if (!each(own[i], 0)) exit 1
            }' || continue
        state=$(timeout 1 redis-cli -h "${seed%:*}" -p "${seed##*:}" info persistence 2>/dev/null) || continue
        case $state in *loading:0*) return 0 ;; esac
    done
    return 1
}

set_aside() { # WHAT FILES...: moves the files away if another member has the data; ends the container in any case
    what=$1
    shift
    if ! owner_answers; then
        say "$what is damaged, and no other member answers as owner of its slots with the data: repair it (redis-check-aof --fix), or restore a backup; nothing was changed"
        exit 1
    fi
    aside="aside-$POD_UID"
    if [ -e "$aside" ] || [ "$(ls -d aside-* 2>/dev/null | wc -l)" -ge 3 ]; then
        say "$what is damaged, and copies were set aside before ($(ls -d aside-* | tr '\n' ' ')): check the disk, then delete them"
        exit 1
    fi
    mkdir "$aside"
    for file in "$@"; do
        if [ -e "$file" ]; then mv "$file" "$aside/"; fi
    done
    rm -f "$run/starting"
    say "$what was damaged and is set aside in $data/$aside; another member has the data, and this one joins again"
    exit 1
}

# The server writes this line at the end of the file; without it the file is truncated.
if [ -s nodes.conf ] && ! tail -n 1 nodes.conf | grep -q '^vars '; then
    set_aside nodes.conf nodes.conf dump.rdb appendonly.aof appendonlydir
fi
# Checking all data takes time, so it is done only after a start that did not end in readiness.
if [ -e "$run/starting" ]; then
    for file in appendonlydir/*.manifest; do
        if [ -e "$file" ] && ! redis-check-aof "$file" >/dev/null 2>&1; then
            set_aside 'the append-only file' dump.rdb appendonly.aof appendonlydir
        fi
    done
    if [ -s dump.rdb ] && ! redis-check-rdb dump.rdb >/dev/null 2>&1; then
        set_aside dump.rdb dump.rdb appendonly.aof appendonlydir
    fi
fi

# Data without nodes.conf: a new node would claim the slots of the keys that it finds. The data is set aside,
# and this node starts empty and joins as a replica.
if [ ! -s nodes.conf ]; then
    rm -f nodes.conf
    if has_data; then
        aside="aside-$(date +%s)"
        mkdir "$aside"
        for file in dump.rdb appendonly.aof appendonlydir; do
            if [ -e "$file" ]; then mv "$file" "$aside/"; fi
        done
        rm -f "$run/starting"
        say "nodes.conf is missing, so it is unknown which node the data belongs to; it is set aside in $data/$aside, and this Pod joins again without it. If no other member has the data, it can be replayed from there (redis-cli --pipe)"
        exit 1
    fi
fi

# A primary that restarts without data makes its replicas delete theirs. One that has nothing to load therefore
# waits, without limit, until another node owns its slots, or until Tholepin allows the start by an annotation on the
# Pod: no other copy can exist, or a person has approved the loss of the data. A peer that does not answer proves
# nothing.
me='' slots=''
if [ -s nodes.conf ] && ! has_data; then
    while read -r id _ flags _ _ _ _ _ rest; do
        case $flags in
            *myself*master* | *master*myself*) me=$id slots=$rest ;;
        esac
    done < nodes.conf
fi

# Succeeds if a peer that knows this node names other nodes with known addresses as owners of all its slots.
# Counts in `refused` how often in a row peers required another password and none answered.
refused=0
taken_over() {
    answered=no refusing=no
    for peer in $(seeds); do
        [ "$peer" != "$POD_IP:$PORT" ] || continue
        nodes=$(ask "${peer%:*}" "${peer##*:}") || continue
        case $nodes in
            NOAUTH* | WRONGPASS* | AUTH*) refusing=yes; continue ;;
        esac
        answered=yes
        if printf '%s\n' "$nodes" | awk -v me="$me" -v mine="$slots" '
            function each(range, set,    ends, slot, last) {
                if (range ~ /^\[/) return 1
                split(range, ends, "-")
                last = ends[2] == "" ? ends[1] : ends[2]
                for (slot = ends[1] + 0; slot <= last + 0; slot++) {
                    if (set) owned[slot] = 1
                    else if (!(slot in owned)) return 0
                }
                return 1
            }
            $3 ~ /myself/ { answers = 1 }
            $1 == me { knows = 1; next }
            $3 ~ /master/ && $3 !~ /noaddr|handshake/ { for (i = 9; i <= NF; i++) each($i, 1) }
            END {
                if (!answers || !knows) exit 1
                count = split(mine, ranges, " ")
                for (i = 1; i <= count; i++) if (!each(ranges[i], 0)) exit 1
            }'
        then
            return 0
        fi
    done
    case $answered$refusing in
        noyes) refused=$((refused + 1)) ;;
        *) refused=0 ;;
    esac
    return 1
}

may_start() { # succeeds if Tholepin allows the start of this process, not of an earlier one
    permit=$(cat "$podinfo/may-start" 2>/dev/null) || return 1
    case $permit in "$me"/*) [ "${started}000" -le "${permit#*/}" ] ;; *) return 1 ;; esac
}

if [ -n "$slots" ]; then
    say "this node was the primary of $slots and has no data to load; waiting until another node has taken over"
    : > "$run/guard"
    until taken_over; do
        if may_start; then
            say "Tholepin allows the start without data"
            break
        fi
        # This container keeps the password with which it was started; a new one reads the Secret again.
        if [ "$refused" -ge 50 ]; then
            rm -f "$run/guard"
            say "the other members require another password; restarting with the one that the Secret has now"
            exit 1
        fi
        sleep 0.1
    done
    rm -f "$run/guard"
fi

case ${REDISCLI_AUTH:-} in
    *'
'*)
        say 'the password has a line break; write the Secret again without one'
        exit 1
        ;;
esac

{
    printf 'include %s/redis.conf\ninclude %s/live.conf\n' "$conf" "$conf"
    printf 'bind %s\n' "$POD_IP"
    printf 'cluster-announce-ip %s\n' "$POD_IP"
    # Peers reply to the address that a message comes from. The setting exists from 7.0 on.
    case $(redis-server --version) in
        *v=[1-6].*) ;;
        *) printf 'bind-source-addr %s\n' "$POD_IP" ;;
    esac
    if [ -n "${REDISCLI_AUTH:-}" ]; then
        quoted=$(printf '%s' "$REDISCLI_AUTH" | sed 's/[\\"]/\\&/g')
        printf 'requirepass "%s"\nmasterauth "%s"\n' "$quoted" "$quoted"
    fi
} > "$run/redis.conf"
: > "$run/starting"
exec redis-server "$run/redis.conf"
