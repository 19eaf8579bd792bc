#!/bin/sh
# compiler.sh PROGRAM ARGS…: gcc runs its parts through this (-wrapper). Says where a compiler starts, then becomes it.
case $1 in
*/cc1)
	processor=$(awk '{ print $39 }' /proc/$$/stat)
	for node in /sys/devices/system/cpu/cpu"$processor"/node*; do
		node=${node##*node}
	done
	for source in "$@"; do
		case $source in
		?*.c)
			echo "  ${source##*/} on processor $processor, node $node"
			break
			;;
		esac
	done
	;;
esac
exec "$@"
