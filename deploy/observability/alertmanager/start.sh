#!/bin/sh
# Starts Alertmanager, which reads no environment: its settings are written first. ALERTS_URL takes each group of alerts
# as a POST in Alertmanager's own JSON; empty, alerts are kept here and go to nobody. For mail, Slack or a pager put what
# https://prometheus.io/docs/alerting/latest/configuration/#receiver names in the place of webhook_configs.
set -eu
umask 077
written=${ALERTMANAGER_YML:-/tmp/alertmanager.yml}
case "${ALERTS_URL:-}" in
    *[\'\\]* | *[[:space:]]*) echo "ALERTS_URL must be an address" >&2; exit 78 ;;
esac
cat >"$written" <<YML
route:
  receiver: told
  group_by: [alertname]
  group_wait: 30s
  group_interval: 5m
  repeat_interval: 24h
  routes: [{matchers: ['severity="page"'], repeat_interval: 1h, receiver: told}]
receivers:
  - name: told
YML
if [ -n "${ALERTS_URL:-}" ]; then
    echo "    webhook_configs: [{url: '$ALERTS_URL', send_resolved: true}]" >>"$written"
else
    echo "ALERTS_URL is empty: alerts are kept here and go to nobody" >&2
fi
unset ALERTS_URL
exec alertmanager --config.file="$written" --storage.path="${ALERTMANAGER_DATA:-/alertmanager}" --cluster.listen-address= "$@"
