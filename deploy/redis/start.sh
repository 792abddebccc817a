#!/bin/sh
# Starts Redis with its users. Their passwords come from the environment and are kept as hashes, in memory only.
#
#   gateway   the gateway, the delivery of webhooks, the commands
#   worker    workers
#   probe     the health check: it may PING, and needs no password
#   admin     whoever looks after Redis; only with REDIS_ADMIN_PASSWORD set
#
# Neither of the first two may change Redis' settings, read what others send it, or touch a key that is not the service's.
set -eu
umask 077
: "${REDIS_GATEWAY_PASSWORD:?is not set}" "${REDIS_WORKER_PASSWORD:?is not set}"  # inside $(…) it would end that alone

hashed() {
    printf %s "$1" | sha256sum | cut -d' ' -f1
}

may="~seemly:* ~rq:* resetchannels &rq:* +@all -@admin -@dangerous +info +client|setname +client|list"
users=${ACL_FILE:-/tmp/users.acl}
cat >"$users" <<ACL
user default off
user probe on nopass resetchannels -@all +ping
user gateway on #$(hashed "$REDIS_GATEWAY_PASSWORD") $may
user worker on #$(hashed "$REDIS_WORKER_PASSWORD") $may
ACL
if [ -n "${REDIS_ADMIN_PASSWORD:-}" ]; then
    echo "user admin on #$(hashed "$REDIS_ADMIN_PASSWORD") ~* &* +@all" >>"$users"
fi
unset REDIS_ADMIN_PASSWORD REDIS_GATEWAY_PASSWORD REDIS_WORKER_PASSWORD
exec redis-server "${REDIS_CONF:-/etc/seemly/redis.conf}" --dir "${REDIS_DATA:-/data}" --aclfile "$users" "$@"
