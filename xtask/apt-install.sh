#!/bin/sh
# Usage: apt-install.sh ANSWERS PACKAGE...
# Installs Debian packages as root, with ANSWERS to the questions they ask (see
# debconf-set-selections(1), may be empty). Starts no service and removes no package.
set -eu
export DEBIAN_FRONTEND=noninteractive
answers=$1
shift

# Its exit status forbids to start services, see invoke-rc.d(8). Many containers have one.
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
# A foreign source out of reach must not stop us: only what we install has to be there.
apt-get update || echo 'going on with the package lists as they are' >&2
apt-get install --yes --no-install-recommends --no-remove -o DPkg::Lock::Timeout=300 "$@"
