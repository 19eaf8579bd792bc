#!/bin/sh
# stage.sh HEADING COMMAND…: says what is being done and how long the whole has run, then how long this took.
set -u
heading=$1
shift
now=$(date +%s)
since=$((now - ${VINCS_STARTED:-$now}))
printf '== [%d:%02d] %s\n' $((since / 60)) $((since % 60)) "$heading"
"$@"
status=$?
took=$(($(date +%s) - now))
if [ $status -ne 0 ]; then
	printf '== %s: failed with status %d after %d s\n' "$heading" $status $took >&2
elif [ $took -gt 0 ]; then
	printf '== %s: done in %d s\n' "$heading" $took
fi
exit $status
