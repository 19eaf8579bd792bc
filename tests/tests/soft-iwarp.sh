#!/bin/sh
# Gives a testbed node a soft-iWARP device at 10.0.5.1, once. It is on an interface of its own, as the connection manager knows one device alone of
# several on one.
[ -e /sys/class/infiniband/siw0 ] || { ip link add iw0 type veth peer name iw1 && ip link set iw0 up && ip link set iw1 up &&
    ip addr add 10.0.5.1/24 dev iw0 && rdma link add siw0 type siw netdev iw0; } ||
    { echo 'the node has no soft-iWARP: run make soft-iwarp'; exit 2; }
