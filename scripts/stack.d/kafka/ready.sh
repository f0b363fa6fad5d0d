#!/usr/bin/env bash
# Whether the broker lists itself in its metadata: `ready.sh PORT`. The container's health check; a client of Kafka's own would
# start a Java machine each time.
set -eu
exec 3<>"/dev/tcp/127.0.0.1/$1"
# Size 14, metadata (3), version 1, correlation id 1, no client id, an empty list of topics.
printf '\0\0\0\016\0\003\0\001\0\0\0\001\377\377\0\0\0\0' >&3
# Size, correlation id, number of brokers.
brokers=$(timeout 3 head -c 12 <&3 | tail -c 4 | od -An -tx1 | tr -d ' \n')
[[ ${#brokers} == 8 && $brokers != 00000000 ]]
