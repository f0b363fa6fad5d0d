import { CommonOptions, Flags, ManyOptions, User } from './types.js';

/** The format of messages: JSON, or another that a schema registry knows. */
export interface MessageFormat {
  /** `record` is the name of the message's schema: `EvaluationRequest` or `Conversion`. */
  encode(topic: string, record: string, body: { [name: string]: unknown }): Uint8Array | Promise<Uint8Array>;
  /** Returns the message's members, or `null` if it has another format. */
  decode(message: Uint8Array): unknown;
}
/** Requests and conversions in Avro; what is read may be in Avro or in JSON. It needs the package `avsc`. */
export class AvroFormat implements MessageFormat {
  /** `subjectOf` names the subject of a schema; by default `{topic}-value`. */
  constructor(registryUrl: string, options?: { subjectOf?: (topic: string, recordName: string) => string });
  encode(topic: string, record: string, body: { [name: string]: unknown }): Promise<Uint8Array>;
  decode(message: Uint8Array): Promise<unknown>;
}
export interface KafkaConnection {
  /** `HOST:PORT`, several with commas or as a list. Default: `KAFKA_BOOTSTRAP_SERVERS`. */
  bootstrapServers?: string | readonly string[];
  /** More options of `@platformatic/kafka`, such as `tls` and `sasl`. */
  kafka?: { [name: string]: unknown };
  format?: MessageFormat;
}
export interface KafkaOptions extends CommonOptions, KafkaConnection {
  /** Default: `feature-flag-evaluation-requests`. */
  requestsTopic?: string;
  /** The topic of replies, which must exist and be allowed by the service. Without it only requests without replies can be sent. */
  replyTopic?: string | null;
  /** Default: `feature-flag-conversions`. */
  conversionsTopic?: string;
  /** Default: `feature-flag-updates`. */
  updatesTopic?: string;
  /** Requests that may wait for replies; further ones fail at once: 10,000. */
  maxPending?: number;
}

/** Evaluates flags through Kafka. Create one client for the whole process, and close it. */
export class KafkaFeatureFlagsClient extends Flags {
  constructor(options?: KafkaOptions);
  /** Sends a request without a reply; returns its id, which the events carry, when Kafka has it. */
  request(flagNames: string | readonly string[], userId?: User, options?: ManyOptions): Promise<string>;
  /** Resolves when requests can be sent and replies will be read. Without it, the first evaluations wait. */
  waitUntilReady(): Promise<void>;
  /** How many replies arrived after their deadline. */
  readonly lateReplies: number;
  /** How many requests wait for a reply. */
  readonly pendingRequests: number;
}

/** Reports each change in `feature-flag-updates` to a client that was created with a cache. */
export class KafkaChanges {
  static start(flags: Flags, options?: KafkaConnection & { topic?: string }): KafkaChanges;
  readonly isFollowing: boolean;
  waitUntilFollowing(): Promise<void>;
  close(): Promise<void>;
}
