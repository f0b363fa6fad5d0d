// Reads a whole topic, without a consumer group.
'use strict';

const { setTimeout: sleep } = require('node:timers/promises');

const { connection, load, why } = require('./connect.js');

/** The longest time that a broker waits for records. */
const FETCH_WAIT_MS = 500;
const MAX_FETCH_BYTES = 10 << 20;
const RETRY_INTERVAL_MS = 1_000;
/** Interval at which new partitions and leaders are noticed: records of theirs would be missed otherwise. */
const PARTITIONS_INTERVAL_MS = 5_000;
const IS_TRANSACTIONAL = 0b1_0000;
const IS_CONTROL = 0b10_0000;
const ABORT = 0;

/**
 * Reads all partitions of a topic, each from `lookBack` records before its end, and gives committed records to `receive`.
 * Partitions that are added later are read from their beginning. After a failure reading resumes where it stopped.
 *
 * The client's own consumer would need a group, whose rebalances take seconds; so this uses its single operations.
 */
class TopicReader {
  #options;
  #topic;
  #lookBack;
  #receive;
  #reading;
  #consumer = null;
  /** The next offset of each partition. */
  #positions = new Map();
  /** The end of each partition when it was looked up for the first time. */
  #starts = new Map();
  #closing = new AbortController();
  #done;
  #isReady = false;
  #resolveReady;

  /** Why the topic cannot be read, or `null`. */
  problem = null;
  /** Resolves when every later record will be received. */
  ready = new Promise((resolve) => {
    this.#resolveReady = resolve;
  });

  /** `reading` is called with whether records arrive: when reading begins, fails, and resumes. */
  constructor(options, topic, lookBack, receive, reading = () => {}) {
    this.#options = options;
    this.#topic = topic;
    this.#lookBack = BigInt(lookBack);
    this.#receive = receive;
    this.#reading = reading;
    this.#done = this.#run();
  }

  get isReady() {
    return this.#isReady && !this.#closing.signal.aborted;
  }

  async close() {
    this.#closing.abort();
    await this.#done;
  }

  async #run() {
    const closing = this.#closing.signal;
    while (!closing.aborted) {
      try {
        await this.#read();
      } catch (error) {
        this.#failed(error);
        this.#reading(false);
        // A consumer whose connection failed is replaced as a whole.
        await this.#disconnect();
        await sleep(RETRY_INTERVAL_MS, undefined, { signal: closing }).catch(() => {});
      }
    }
    await this.#disconnect();
  }

  async #disconnect() {
    const consumer = this.#consumer;
    this.#consumer = null;
    await consumer?.close(true).catch(() => {});
  }

  #failed(error) {
    if (this.#closing.signal.aborted) return;
    const problem = `topic ${this.#topic}: ${why(error)}`;
    if (problem !== this.problem) console.warn(`flagstream: ${problem}`);
    this.problem = problem;
  }

  /** Reads until the partitions or their leaders change, or the reader is closed. */
  async #read() {
    const { Consumer } = await load();
    this.#consumer ??= new Consumer({ ...connection(this.#options), groupId: 'flagstream-client-node' });
    const places = await this.#places();
    await this.#locate(places);
    this.problem = null;
    this.#isReady = true;
    this.#resolveReady();
    this.#reading(true);
    const round = new AbortController();
    const stop = () => round.abort();
    this.#closing.signal.addEventListener('abort', stop, { once: true });
    if (this.#closing.signal.aborted) stop();
    // One loop for each broker, so that none waits for the long poll of another.
    const loops = [...places.leaders].map(([node, partitions]) => this.#follow(node, places.id, partitions, round.signal));
    try {
      await Promise.race([Promise.all(loops), this.#untilChanged(places, round.signal)]);
    } finally {
      stop();
      this.#closing.signal.removeEventListener('abort', stop);
      await Promise.allSettled(loops);
    }
  }

  /** The id of the topic, and the partitions that each broker leads. */
  async #places() {
    const metadata = await this.#consumer.metadata({ topics: [this.#topic], forceUpdate: true });
    const { id, partitions } = metadata.topics.get(this.#topic);
    const leaders = new Map();
    partitions.forEach(({ leader }, partition) => leaders.set(leader, [...(leaders.get(leader) ?? []), partition]));
    return { id, leaders };
  }

  async #untilChanged(places, stopped) {
    const textOf = ({ id, leaders }) => JSON.stringify([id, ...leaders]);
    while (!stopped.aborted) {
      await sleep(PARTITIONS_INTERVAL_MS, undefined, { signal: stopped }).catch(() => {});
      if (!stopped.aborted && textOf(await this.#places()) !== textOf(places)) return;
    }
  }

  /** Determines where to read on. */
  async #locate({ leaders }) {
    const offsetsAt = async (timestamp) => (await this.#consumer.listOffsets({ topics: [this.#topic], timestamp })).get(this.#topic);
    const [begins, ends] = [await offsetsAt(-2n), await offsetsAt(-1n)];
    for (const partition of [...leaders.values()].flat()) {
      const [begin, end] = [begins[partition], ends[partition]];
      const isNew = !this.#positions.has(partition);
      // A partition that is added later may have records already.
      if (isNew) this.#starts.set(partition, this.#isReady ? begin : end);
      const wanted = isNew ? this.#starts.get(partition) - this.#lookBack : this.#positions.get(partition);
      // Beyond the end: the topic was deleted and created again.
      this.#positions.set(partition, wanted < begin || wanted > end ? begin : wanted);
    }
  }

  async #follow(node, topicId, partitions, stopped) {
    while (!stopped.aborted) {
      const asked = partitions.map((partition) => ({
        partition,
        fetchOffset: this.#positions.get(partition),
        partitionMaxBytes: MAX_FETCH_BYTES,
        currentLeaderEpoch: -1,
        lastFetchedEpoch: -1,
      }));
      const response = await this.#consumer.fetch({
        node,
        topics: [{ topicId, partitions: asked }],
        minBytes: 1,
        maxBytes: MAX_FETCH_BYTES,
        maxWaitTime: FETCH_WAIT_MS,
        // 1 is read_committed. With the number the client filters aborted records itself, but it knows only one aborted
        // transaction of each producer, and fails at the marker of one without records. On the wire both are the same;
        // `committed` below does the filtering.
        isolationLevel: true,
      });
      if (stopped.aborted) return;
      for (const { partitionIndex, records, abortedTransactions } of response.responses.flatMap((topic) => topic.partitions)) {
        this.#take(partitionIndex, records ?? [], abortedTransactions ?? []);
      }
    }
  }

  #take(partition, batches, aborted) {
    for (const batch of committed(batches, aborted)) {
      for (const record of batch.records) {
        const offset = batch.firstOffset + BigInt(record.offsetDelta);
        if (offset < this.#positions.get(partition)) continue;
        this.#positions.set(partition, offset + 1n);
        if (record.value !== null) this.#deliver({ ...record, partition, offset, isEarlier: offset < this.#starts.get(partition) });
      }
    }
    const last = batches.at(-1);
    if (last) this.#positions.set(partition, last.firstOffset + BigInt(last.lastOffsetDelta) + 1n);
  }

  #deliver(record) {
    try {
      this.#receive(record);
    } catch (error) {
      console.warn(`flagstream: topic ${this.#topic}: a record could not be processed:`, error);
    }
  }
}

/** The batches of committed records: those of aborted transactions and control records are left out. */
function* committed(batches, abortedTransactions) {
  const begins = [...abortedTransactions].sort((a, b) => Number(a.firstOffset - b.firstOffset));
  const aborted = new Set();
  for (const batch of batches) {
    const lastOffset = batch.firstOffset + BigInt(batch.lastOffsetDelta);
    while (begins.length > 0 && begins[0].firstOffset <= lastOffset) aborted.add(begins.shift().producerId);
    if (batch.attributes & IS_CONTROL) {
      if (batch.records[0]?.key?.readInt16BE(2) === ABORT) aborted.delete(batch.producerId);
    } else if (!(batch.attributes & IS_TRANSACTIONAL && aborted.has(batch.producerId))) {
      yield batch;
    }
  }
}

/** The last header of a name as text, or `null`. */
function headerOf(record, name) {
  const found = record.headers.findLast(([key]) => key?.toString() === name)?.[1];
  return found ? found.toString() : null;
}

module.exports = { TopicReader, committed, headerOf };
