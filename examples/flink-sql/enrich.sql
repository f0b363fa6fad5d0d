-- Enriches a stream of orders with flags, through requests and replies. For Flink 2 with the Kafka SQL connector.
--
--   orders ─┬─► requests (reply-to, correlation-id) ─► flagstream ─► replies ─┐
--           └───────────────── interval join by order id ◄────────────────────┘
--                                        │
--                                        ▼
--                                 orders_enriched

-- Results are written when a checkpoint is complete: its interval is the least latency.
SET 'execution.checkpointing.interval' = '1s';

CREATE TABLE orders (
  order_id STRING,
  user_id STRING,
  country STRING,
  ordered_at TIMESTAMP_LTZ(3) METADATA FROM 'timestamp',
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '2' SECOND
) WITH (
  'connector' = 'kafka', 'topic' = 'orders', 'properties.bootstrap.servers' = 'localhost:9092',
  'scan.startup.mode' = 'earliest-offset', 'properties.isolation.level' = 'read_committed',
  'key.format' = 'raw', 'key.fields' = 'order_id', 'value.format' = 'json', 'value.fields-include' = 'ALL',
  'scan.watermark.idle-timeout' = '5s'
);

-- One request for each order. The key is the order id, which flagstream gives to the reply.
CREATE TABLE flag_requests (
  request_key STRING,
  request_id STRING,
  flag_names ARRAY<STRING>,
  default_values MAP<STRING, STRING>,
  user_id STRING,
  context MAP<STRING, STRING>,
  environment STRING,
  headers MAP<STRING, BYTES> METADATA
) WITH (
  'connector' = 'kafka', 'topic' = 'feature-flag-evaluation-requests',
  'properties.bootstrap.servers' = 'localhost:9092', 'key.format' = 'raw', 'key.fields' = 'request_key',
  'value.format' = 'json', 'value.fields-include' = 'EXCEPT_KEY'
);

-- Replies are written in transactions: what was taken back must not be read.
CREATE TABLE flag_replies (
  correlation_id STRING,
  results MAP<STRING, ROW<`value` STRING, `enabled` BOOLEAN, `variant` STRING, `reason` STRING>>,
  replied_at TIMESTAMP_LTZ(3) METADATA FROM 'timestamp',
  WATERMARK FOR replied_at AS replied_at - INTERVAL '2' SECOND
) WITH (
  'connector' = 'kafka', 'topic' = 'feature-flag-replies-orders', 'properties.bootstrap.servers' = 'localhost:9092',
  'scan.startup.mode' = 'earliest-offset', 'properties.isolation.level' = 'read_committed', 'format' = 'json',
  'scan.watermark.idle-timeout' = '5s'
);

CREATE TABLE orders_enriched (
  order_id STRING,
  user_id STRING,
  theme STRING,
  variant STRING
) WITH (
  'connector' = 'kafka', 'topic' = 'orders-enriched', 'properties.bootstrap.servers' = 'localhost:9092',
  'key.format' = 'raw', 'key.fields' = 'order_id', 'value.format' = 'json', 'value.fields-include' = 'ALL',
  'sink.delivery-guarantee' = 'at-least-once'
);

EXECUTE STATEMENT SET BEGIN
  INSERT INTO flag_requests
  SELECT order_id, order_id, ARRAY['theme'], MAP['theme', 'light'], user_id, MAP['country', country], 'production',
         MAP['reply-to', ENCODE('feature-flag-replies-orders', 'UTF-8'), 'correlation-id', ENCODE(order_id, 'UTF-8')]
  FROM orders;

  -- A LEFT JOIN: an order without a reply within 30 s gets the default.
  INSERT INTO orders_enriched
  SELECT o.order_id, o.user_id, COALESCE(r.results['theme'].`value`, 'light'), r.results['theme'].`variant`
  FROM orders AS o
  LEFT JOIN flag_replies AS r
    ON o.order_id = r.correlation_id
   AND r.replied_at BETWEEN o.ordered_at - INTERVAL '5' SECOND AND o.ordered_at + INTERVAL '30' SECOND;
END;
