#!/bin/sh
# Starts Redis (7 or newer) with its users. Their passwords come from the environment and are kept as hashes, in memory
# only.
#
#   gateway    the gateway: accepts jobs, reads what became of them; API keys it can only check
#   worker     workers: take jobs of models, commit results, put verdicts on record
#   lab        labs: take erasures, and no pictures' jobs
#   webhooks   the delivery of webhooks: the outbox
#   commands   whoever administers the service: keys, secrets, policies, audits; it runs no jobs
#   probe      the health check: it may PING, and needs no password
#   admin      whoever looks after Redis; only with REDIS_ADMIN_PASSWORD set
#
# None but the last may change Redis' settings, empty it, list its keys, run functions, or touch a key that is not its
# business; %R is for reading only. contract/keys.py tells what each key holds.
set -eu
umask 077
: "${REDIS_GATEWAY_PASSWORD:?is not set}" "${REDIS_WORKER_PASSWORD:?is not set}" "${REDIS_LAB_PASSWORD:?is not set}"
: "${REDIS_WEBHOOKS_PASSWORD:?is not set}" "${REDIS_COMMANDS_PASSWORD:?is not set}" # in $(…) it would end that alone

hashed() {
    printf %s "$1" | sha256sum | cut -d' ' -f1
}

# Every user: nothing that is about Redis itself but INFO, which tells how it is set and how full it is.
can="resetchannels +@all -@admin -@dangerous -@blocking -scan -randomkey -dbsize -select -function -fcall -fcall_ro"
can="$can -script|flush -script|kill -publish -subscribe -psubscribe -ssubscribe -spublish +info"

# A job's own keys, what is counted of its tenant, the webhook that tells its end, and verdicts on record.
jobs="~seemly:job:* ~seemly:events:* ~seemly:jobs:accepted ~seemly:tenant:*:in-flight ~seemly:tenant:*:refusals:*"
jobs="$jobs ~seemly:jobs:ended ~seemly:tenant:*:ended"
outbox="~seemly:webhook:* ~seemly:webhooks:tenants ~seemly:tenant:*:webhooks ~seemly:tenant:*:webhooks:due"
verdicts="~seemly:audited ~seemly:tenant:*:audit ~seemly:tenant:*:audit:head ~seemly:review:* ~seemly:tenant:*:reviews"
verdicts="$verdicts ~seemly:reviews:pending"

# What RQ keeps of one kind of queue: workers' begin with seemly-, labs' with lab-. Turns of all: whoever finds that a job
# has waited past its deadline ends it.
rq() {
    printf %s "+subscribe &rq:pubsub:$1* +blmove +client|setname +client|list"
    printf " ~rq:%s$1*" queue: workers: worker: wip: finished: failed: deferred: scheduled: canceled: ready: \
        clean_registries:
    printf " ~rq:%s" queues workers 'job:*' 'execution:*' 'executions:*' 'results:*'
    printf %s " %R~rq:suspended %R~rq:rl-keys ~seemly:turns:* ~seemly:reaper:$1*"
}

gateway="$jobs $outbox $verdicts ~seemly:webhooks:dead ~seemly:policies ~seemly:policies:* ~seemly:tenant:*"
gateway="$gateway ~seemly:turns:* ~seemly:claim:* ~seemly:upload:* ~seemly:bell:* ~seemly:rate*"
gateway="$gateway %R~seemly:models %R~seemly:labs %R~seemly:workers:ready %R~seemly:jobs:service-times"
gateway="$gateway %R~seemly:tokenizer:* %R~seemly:scores:* %R~seemly:tenants %R~seemly:api-keys"
gateway="$gateway %R~seemly:webhooks:secrets ~rq:job:* ~rq:queues ~rq:queue:* %R~rq:wip:* %R~rq:executions:*"
gateway="$gateway %R~rq:execution:* %R~rq:suspended +publish &rq:pubsub:* +xread"

worker="$jobs $outbox $verdicts $(rq seemly-) ~seemly:models ~seemly:tokenizer:* ~seemly:workers:ready"
worker="$worker ~seemly:jobs:service-times ~seemly:upload:* ~seemly:scores:*"
worker="$worker %R~seemly:policies %R~seemly:policies:*"

lab="$jobs $outbox $(rq lab-) ~seemly:labs ~seemly:jobs:service-times"

webhooks="$outbox ~seemly:webhooks:dead %R~seemly:webhooks:secrets"

commands="$outbox $verdicts ~seemly:webhooks:dead ~seemly:webhooks:secrets ~seemly:api-keys ~seemly:tenants"
commands="$commands ~seemly:policies ~seemly:policies:assigned %R~seemly:* %R~rq:*"

users=${ACL_FILE:-/tmp/users.acl}
cat >"$users" <<ACL
user default off
user probe on nopass resetchannels -@all +ping
user gateway on #$(hashed "$REDIS_GATEWAY_PASSWORD") $can $gateway
user worker on #$(hashed "$REDIS_WORKER_PASSWORD") $can $worker
user lab on #$(hashed "$REDIS_LAB_PASSWORD") $can $lab
user webhooks on #$(hashed "$REDIS_WEBHOOKS_PASSWORD") $can $webhooks
user commands on #$(hashed "$REDIS_COMMANDS_PASSWORD") $can $commands
ACL
if [ -n "${REDIS_ADMIN_PASSWORD:-}" ]; then
    echo "user admin on #$(hashed "$REDIS_ADMIN_PASSWORD") ~* &* +@all" >>"$users"
fi
unset REDIS_ADMIN_PASSWORD REDIS_GATEWAY_PASSWORD REDIS_WORKER_PASSWORD REDIS_LAB_PASSWORD REDIS_WEBHOOKS_PASSWORD \
    REDIS_COMMANDS_PASSWORD
exec redis-server "${REDIS_CONF:-/etc/seemly/redis.conf}" --dir "${REDIS_DATA:-/data}" --aclfile "$users" "$@"
