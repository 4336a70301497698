# weavepy as one of the overlays of a side-by-side measurement: defines ours_up and ours_down, and
# the same for weavepy pinned to records of one datagram (ours_span1) and without encryption
# (ours_insecure). Whoever sources it brings
#
#   lab KIND MTU       which makes the namespaces pb-hA and pb-hB (hosts: underlay 10.99.0.1 and
#                      .2) and pb-cA and pb-cB (containers, not yet connected to anything)
#   spawn NS COMMAND   which runs a daemon there and adds its process id to PIDS
#   W                  a directory for this peer and run; log files of a run end up there
#
# Everything else is the product as users have it: routers by `weavepy launch`, containers by
# `weavepy attach`, with the offloads and the coalescing that attaching switches on.
# WEAVEPY names another program to measure than the one of this tree.

WEAVEPY=${WEAVEPY:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/.venv/bin/weavepy}

on_host() { # on_host A|B COMMAND...: with the directories of that host's router
  local host=$1; shift
  ip netns exec "pb-h$host" env "WEAVEPY_RUN_DIR=$W/$host/run" "WEAVEPY_STATE_DIR=$W/$host/state" "$@"
}

launch() { # launch OPTION...: both routers, and a container on each
  local host other=2 number=0
  lab weave 0
  DST=10.32.0.2
  head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$W/secret"
  for host in A B; do
    mkdir -p "$W/$host/run" "$W/$host/state"
    spawn "pb-h$host" env "WEAVEPY_RUN_DIR=$W/$host/run" "WEAVEPY_STATE_DIR=$W/$host/state" \
      "$WEAVEPY" launch --foreground --nickname "$host" --ipalloc-init consensus=2 "$@" "10.99.0.$other"
    other=1
  done
  for host in A B; do
    number=$((number + 1))
    for _ in $(seq 100); do on_host $host "$WEAVEPY" status >/dev/null 2>&1 && break; sleep 0.1; done
    on_host $host "$WEAVEPY" attach --ip "10.32.0.$number/12" "pb-c$host" || return 1
    PIDS+=("$(cat "$W/$host/run/datapath.pid")")
  done
}

stop() { local host; for host in A B; do on_host $host "$WEAVEPY" stop; done; }

ours_up() { launch --secret-file "$W/secret"; }
ours_down() { stop; }
ours_span1_up() { WEAVEPY_MAX_SPAN=1 launch --secret-file "$W/secret"; }
ours_span1_down() { stop; }
ours_insecure_up() { launch --insecure; }
ours_insecure_down() { stop; }
