#!/bin/sh
# Usage: base-system.sh ARCHIVE RELEASE PACKAGES MIRROR [CPIO...]
# Makes ARCHIVE, a minimal Debian system with these packages, as root: a tar file, or an initramfs
# if the command CPIO is given. An existing archive is complete. An empty MIRROR is debootstrap's
# default.
set -eu
archive=$1
release=$2
packages=$3
mirror=$4
shift 4

dir=$(mktemp -d "$archive.XXXXXX")
trap 'rm -rf "$dir"' EXIT
trap 'exit 130' HUP INT TERM

debootstrap --variant=minbase --include="$packages" "$release" "$dir/root" ${mirror:+"$mirror"}
rm -rf "$dir"/root/var/cache/apt/archives/*.deb "$dir"/root/var/lib/apt/lists/*
if [ $# -eq 0 ]; then
	tar -C "$dir/root" -cf "$dir/archive" .
else
	# No program reads these files, which take a fifth of the memory.
	for folder in doc info locale man; do
		rm -rf "$dir/root/usr/share/$folder"/*
	done
	(cd "$dir/root" && find . -xdev | "$@" --quiet -o -H newc) >"$dir/archive"
fi
mv "$dir/archive" "$archive"
