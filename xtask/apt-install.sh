#!/bin/sh
# Usage: apt-install.sh ANSWERS PACKAGE...
# Installs Debian packages as root. ANSWERS are the answers to the questions of the packages, in the
# format of debconf-set-selections(1), and may be empty. Starts no service and removes no package.
set -eu
export DEBIAN_FRONTEND=noninteractive
answers=$1
shift

# The exit status 101 of this script forbids starting services, see invoke-rc.d(8). Many containers
# have the script already.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

if [ -n "$answers" ]; then
    echo "$answers" | debconf-set-selections
fi
# An unreachable third-party source is no error: only the requested packages must be available.
apt-get update || echo 'apt-get update failed: using the existing package lists' >&2
apt-get install --yes --no-install-recommends --no-remove -o DPkg::Lock::Timeout=300 "$@"
