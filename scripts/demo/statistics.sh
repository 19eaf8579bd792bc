#!/bin/sh
# statistics.sh FILE.json: a line of what `vincs --stats` wrote. The file has one key or bracket a line.
set -eu
awk '
	# Where we are: the keys of the open brackets, joined by dots.
	function enter(key) { depth++; keys[depth] = key }
	function path(key,    text, i) {
		for (i = 1; i <= depth; i++) text = text keys[i] "."
		return text key
	}
	{
		key = value = $0
		if (!sub(/^ *"/, "", key) || !sub(/": .*/, "", key)) key = ""
		sub(/^ *("[^"]*": )?/, "", value)
		sub(/,$/, "", value)
		if (value == "{" || value == "[") enter(key)
		else if (value == "}" || value == "]") depth--
		else if (key != "") {
			found[path(key)] = value
			if (path(key) ~ /\.machine\.memory\.sent\.[a-z_]*\.messages$/) messages += value
			if (path(key) ~ /\.machine\.memory\.sent\.[a-z_]*\.bytes$/) bytes += value
		}
	}
	END {
		memory = ".machine.memory."
		faults = memory "protocol."
		if (!(faults "read_faults" in found)) {
			print "statistics: " FILENAME " has none of several ranks" >"/dev/stderr"
			exit 1
		}
		printf "statistics: page faults between the ranks: %d to read, %d to write, %d upgrades", found[faults "read_faults"], found[faults "write_faults"], found[faults "upgrade_faults"]
		printf "; median %.0f us to read, %.0f us to write", found[memory "read_faults.median"] / 1000, found[memory "write_faults.median"] / 1000
		printf "; %d invalidations, %d recalls; %d messages with %.1f MB", found[faults "invalidations"], found[faults "recalls"], messages, bytes / 1e6
		printf "; boot %.1f s, all %.1f s\n", found[".times.kernel_entry_to_command"], found[".times.kernel_entry_to_end"]
	}' "$1"
