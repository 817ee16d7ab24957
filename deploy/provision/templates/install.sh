#!/bin/sh
# Installs this kit for systemd. Run it as root; running it again brings an update in.
set -eu
umask 077
cd "$$(dirname "$$0")"

if [ "$$(id -u)" -ne 0 ]; then
    echo "install.sh needs root: sudo ./install.sh" >&2
    exit 1
fi
if [ ! -x $install/bin/augflower ]; then
    echo "AugFlower is not in $install. Make it: python3 -m venv $install" >&2
    echo "and install AugFlower there with $install/bin/pip." >&2
    exit 1
fi

id $user >/dev/null 2>&1 || useradd --system --home-dir /var/lib/augflower --shell /usr/sbin/nologin $user
install -d -m 0755 /etc/augflower /var/lib/augflower
install -d -m 0700 -o $user $config $state $state/flower
for file in $files; do
    install -m 0600 -o $user "$$file" "$config/$$file"
done
if [ -f config.toml ]; then
    install -m 0600 -o $user config.toml $state/flower/config.toml
fi
for path in $needed; do
    runuser -u $user -- test -r "$$path" ||
        echo "$$path is not there, or the user $user may not read it; node.toml names it" >&2
done
for unit in $units; do
    install -m 0644 "$$unit" "/etc/systemd/system/$$unit"
done
systemctl daemon-reload
for unit in $units; do
    systemctl enable "$$unit"
    systemctl restart "$$unit"
done
