#!/bin/sh
# Usage: base-system.sh ARCHIVE RELEASE [MIRROR]
# Makes ARCHIVE, a tar file of a minimal Debian system, as root. An existing archive is complete.
set -eu
archive=$1
shift

dir=$(mktemp -d "$archive.XXXXXX")
trap 'rm -rf "$dir"' EXIT
trap 'exit 130' HUP INT TERM

# adduser is a dependency of the package; every system has the other dependencies.
debootstrap --variant=minbase --include=adduser "$1" "$dir/root" ${2+"$2"}
rm -rf "$dir"/root/var/cache/apt/archives/*.deb "$dir"/root/var/lib/apt/lists/*
tar -C "$dir/root" -cf "$dir/archive" .
mv "$dir/archive" "$archive"
