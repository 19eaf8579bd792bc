#!/bin/bash
# Installs what building and testing need and this machine lacks: Debian 12 and 13, Ubuntu 24.04. When nothing is missing it
# only looks, without the network. It installs no kernel and touches no boot file.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=()

say() { printf 'setup: %s\n' "$*"; }
die() {
	printf 'setup: %s\n' "$*" >&2
	exit 2
}
have() { command -v "$1" >/dev/null 2>&1; }
any_file() { compgen -G "$1" >/dev/null; }

# need PACKAGE WHY TEST…: asks for the package, and says why, when the test fails.
need() {
	local package=$1 why=$2
	shift 2
	if ! "$@"; then
		say "missing: $package ($why)"
		packages+=("$package")
	fi
}

as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif have sudo; then
		sudo "$@"
	else
		die "packages are missing and this is not root, nor is there sudo: run 'apt-get install ${packages[*]}' as root"
	fi
}

# The version of libclang that the distribution has as its own.
clang_version() {
	local name
	name=$(sed -n 's/^ID=//p; s/^VERSION_ID=//p' /etc/os-release | tr -d '"' | sort -r | paste -sd -)
	case "$name" in
	debian-12) echo 14 ;;
	debian-13) echo 19 ;;
	ubuntu-24.04) echo 18 ;;
	*) apt-cache depends libclang-dev 2>/dev/null | sed -n 's/.*Depends: libclang-\([0-9]*\)-dev.*/\1/p' | head -n 1 ;;
	esac
}

# Whether there is a clang that has LLVM's OpenMP runtime beside it.
clang_with_openmp() {
	local llvm
	for llvm in /usr/lib/llvm-*; do
		[ -e "$llvm/bin/clang" ] && [ -e "$llvm/lib/libomp.so" ] && return 0
	done
	return 1
}

look_for_packages() {
	need gcc 'links programs; the guest builds a small C project in the tests' have gcc
	need g++ 'the tests have a program in C++' have g++
	need libc6-dev 'headers of the C library' test -e /usr/include/stdio.h
	need make 'the guest builds a small C project in the tests' have make
	need git 'the style tests ask it for the files' have git
	need pkg-config 'build scripts of dependencies find libraries with it' have pkg-config
	need libudev-dev 'the topology library is linked with it' any_file '/usr/lib/*/pkgconfig/libudev.pc'
	need libhwloc-dev 'tells which cores there are, to bind threads to them' test -e /usr/include/hwloc.h
	need libibverbs-dev 'RDMA verbs' test -e /usr/include/infiniband/verbs.h
	need librdmacm-dev 'connects iWARP devices; the bindings of RDMA verbs ask for it' test -e /usr/include/rdma/rdma_cma.h
	need ibverbs-providers 'the tests use soft-RoCE and soft-iWARP in an emulated node' any_file '/usr/lib/*/libibverbs/librxe-rdmav*.so'
	local clang
	clang=$(clang_version)
	clang=${clang:-14}
	need "libclang1-$clang" "bindgen reads userfaultfd's, MPI's and RDMA's headers" any_file '/usr/lib/llvm-*/lib/libclang[-.][!c]*'
	need "libclang-common-$clang-dev" "bindgen reads userfaultfd's, MPI's and RDMA's headers" \
		any_file '/usr/lib/llvm-*/lib/clang/*/include/stddef.h'
	need "clang-$clang" 'the tests compile OpenMP programs' clang_with_openmp
	need "libomp-$clang-dev" 'the tests run OpenMP programs' clang_with_openmp
	need libopenmpi-dev 'vincs-mpi, by which ranks find each other, is built with it' have mpicc
	need openmpi-bin 'mpirun starts the ranks of a machine' have mpirun
	need qemu-system-x86 'the testbed is an emulated node' have qemu-system-x86_64
	need xz-utils "unpacks the kernel's source, from which soft-iWARP is built for emulated nodes" have xz
	need libelf1 "Debian's tools that build kernel modules are linked with it" any_file '/usr/lib/*/libelf.so.1'
	need e2fsprogs 'the tests make a disk with a file system' test -e /usr/sbin/mke2fs
	need iproute2 'network and RDMA of an emulated node' have rdma
	need perftest 'make bench-rdma measures beside its tools' have ib_read_lat
	need acpica-tools 'iasl checks the ACPI tables in the tests' have iasl
	need shellcheck 'checks the shell scripts in the tests' have shellcheck
	need stress-ng 'puts a machine of several ranks under stress in the tests' have stress-ng
	# srun, and both daemons of a Slurm that the tests bring up in a node, or here in namespaces of their own.
	need slurm-client 'the tests start ranks by srun too' have srun
	need slurmctld 'the tests start ranks by srun too' have slurmctld
	need slurmd 'the tests start ranks by srun too' have slurmd
	need slurm-wlm-basic-plugins 'the tests start ranks by srun too' any_file '/usr/lib/*/slurm*/mpi_pmix*.so'
	need ca-certificates 'downloads over https' test -e /etc/ssl/certs/ca-certificates.crt
}

# The guest kernel is downloaded by `make kernel`, for which apt needs its lists of packages.
lists_are_there() { any_file '/var/lib/apt/lists/*_Packages*' || any_file "${VINCS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/vincs}/kernels/*"; }

install_packages() {
	if [ ${#packages[@]} = 0 ]; then
		lists_are_there || as_root apt-get update
		return 0
	fi
	have apt-get || die "this is not Debian or Ubuntu: install ${packages[*]} (or what holds the same) by hand"
	local backports=() plain=() package
	for package in "${packages[@]}"; do
		# The emulator must be of one version with its common files, so where those are backported it has to be, too.
		if [ "$package" = qemu-system-x86 ] &&
			dpkg-query -W -f '${Version}\n' qemu-system-common 2>/dev/null | grep -q '~bpo12'; then
			backports+=("$package")
		else
			plain+=("$package")
		fi
	done
	say "installing: ${packages[*]}"
	local apt=(env DEBIAN_FRONTEND=noninteractive apt-get)
	as_root "${apt[@]}" update || say 'apt-get update failed; trying with the package lists as they are'
	if [ ${#plain[@]} -gt 0 ]; then
		as_root "${apt[@]}" install -y --no-install-recommends "${plain[@]}"
	fi
	if [ ${#backports[@]} -gt 0 ]; then
		as_root "${apt[@]}" install -y --no-install-recommends -t bookworm-backports "${backports[@]}"
	fi
}

# toolchain KEY: the words of a key of rust-toolchain.toml, one a line.
toolchain() { sed -n "s/^$1 *= *//p" rust-toolchain.toml | grep -o '"[^"]*"' | tr -d '"' || true; }

# Whether the cargo on PATH is the pinned toolchain with all of its parts. Never downloads.
rust_is_there() {
	local channel=$1 word
	if have rustup; then
		rustup toolchain list 2>/dev/null | grep -q "^${channel}[- ]" || return 1
		local components targets
		components=$(rustup component list --toolchain "$channel" --installed)
		targets=$(rustup target list --toolchain "$channel" --installed)
		for word in $(toolchain components); do
			grep -q "^$word" <<<"$components" || return 1
		done
		for word in $(toolchain targets); do
			grep -qx "$word" <<<"$targets" || return 1
		done
	else
		have cargo && [[ $(cargo --version) == "cargo $channel "* ]] || return 1
		have cargo-clippy && have cargo-fmt || return 1
		for word in $(toolchain targets); do
			[ -d "$(rustc --print sysroot)/lib/rustlib/$word/lib" ] || return 1
		done
	fi
}

install_rust() {
	local channel word
	channel=$(toolchain channel)
	if rust_is_there "$channel"; then
		return
	fi
	say "missing: Rust $channel with $(toolchain components | paste -sd ' ') (rust-toolchain.toml)"
	if ! have rustup; then
		if apt-cache policy rustup 2>/dev/null | grep -q 'Candidate: [0-9]'; then
			packages=(rustup)
			say 'installing: rustup'
			as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends rustup
		else
			if ! have curl; then
				packages=(curl)
				say 'installing: curl (to download rustup)'
				as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends curl
			fi
			say "installing: rustup, by its own installer, into ${CARGO_HOME:-$HOME/.cargo}"
			curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
				sh -s -- -y --no-modify-path --profile minimal --default-toolchain none
		fi
		hash -r
	fi
	local parts=()
	for word in $(toolchain components); do
		parts+=(--component "$word")
	done
	for word in $(toolchain targets); do
		parts+=(--target "$word")
	done
	rustup toolchain install "$channel" --profile minimal --no-self-update "${parts[@]}"
}

# rustup's cargo before a distribution's, which is older and does not know the pinned toolchain.
PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH:/usr/sbin:/sbin
look_for_packages
install_packages
install_rust
say 'nothing is missing'
