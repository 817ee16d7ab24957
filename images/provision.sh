#!/bin/sh
# Makes or completes /fleet from fleet.yaml, and gives it and /runs to $OWNER.
set -eu
umask 077
augflower provision /etc/augflower/fleet.yaml --fleet /fleet
# What opens the live page.
token=/fleet/server/watch.token
[ -s "$token" ] || python3 -c 'import secrets; print(secrets.token_hex(24))' >"$token"
chown -R "$OWNER" /fleet
chown "$OWNER" /runs
