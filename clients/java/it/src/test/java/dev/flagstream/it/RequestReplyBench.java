package dev.flagstream.it;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.flagstream.client.Subject;
import dev.flagstream.client.kafka.KafkaFeatureFlagClient;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.TreeMap;
import java.util.UUID;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;

/**
 * The benchmark of docs/benchmarks.md: the time from a request to its reply, one after the other, in two arms that alternate.
 * One arm is the client, the other a producer and a consumer of Kafka without it, which decode nothing. It is no test, and runs
 * only when it is named: {@code mvn test -pl it -am -Dtest=RequestReplyBench -Dsurefire.failIfNoSpecifiedTests=false}.
 */
class RequestReplyBench {
    private static final int ROUNDS = Integer.getInteger("flagstream.bench.rounds", 5);
    private static final int REQUESTS = Integer.getInteger("flagstream.bench.requests", 2_000);
    private static final int WARM_UP = 500;

    /** Sends a request and returns when its reply is there. */
    private interface Arm {
        void ask(String user);
    }

    @BeforeAll
    static void require() {
        Live.require();
    }

    private static void createReplyTopic() throws Exception {
        Map<String, Object> properties = Map.of("bootstrap.servers", Live.variable("KAFKA_BOOTSTRAP_SERVERS"));
        try (Admin admin = Admin.create(properties)) {
            if (!admin.listTopics().names().get().contains(Live.variable("REPLY_TOPIC"))) {
                admin.createTopics(List.of(new NewTopic(Live.variable("REPLY_TOPIC"), 1, (short) 1))).all().get();
            }
        }
    }

    @Test
    void measure() throws Exception {
        createReplyTopic();
        try (KafkaFeatureFlagClient client = Live.kafka().build(); Plain plain = new Plain()) {
            assertTrue(client.awaitReady(Live.LIMIT));
            Map<String, Arm> arms = new TreeMap<>();
            arms.put("client", user -> assertEquals("dark", client.evaluateFlag("theme", Subject.user(user), "light")));
            arms.put("plain", plain::ask);
            Map<String, List<long[]>> rounds = new TreeMap<>();
            arms.forEach((name, arm) -> run(arm, WARM_UP));
            for (int round = 0; round < ROUNDS; round++) {
                arms.forEach((name, arm) -> rounds.computeIfAbsent(name, absent -> new ArrayList<>()).add(run(arm, REQUESTS)));
            }
            for (double share : new double[] {0.5, 0.99}) {
                double[] medians = new double[2];
                int at = 0;
                for (Map.Entry<String, List<long[]>> arm : rounds.entrySet()) {
                    double[] each = arm.getValue().stream().mapToDouble(times -> percentile(times, share)).toArray();
                    medians[at] = median(each);
                    System.out.printf(Locale.ROOT, "p%.0f %s: %.2f ms (rounds: %s)%n", share * 100, arm.getKey(), medians[at++],
                            Arrays.stream(each).mapToObj(ms -> String.format(Locale.ROOT, "%.2f", ms)).toList());
                }
                System.out.printf(Locale.ROOT, "p%.0f client / plain: %.2f%n", share * 100, medians[0] / medians[1]);
            }
        }
    }

    private static long[] run(Arm arm, int requests) {
        long[] times = new long[requests];
        for (int number = 0; number < requests; number++) {
            long start = System.nanoTime();
            arm.ask("user-" + number % 100);
            times[number] = System.nanoTime() - start;
        }
        Arrays.sort(times);
        return times;
    }

    private static double percentile(long[] sorted, double share) {
        return sorted[(int) Math.min(sorted.length - 1, Math.round(sorted.length * share))] / 1e6;
    }

    private static double median(double[] values) {
        Arrays.sort(values);
        return values[values.length / 2];
    }

    /** A producer and a consumer without the client: the least that a round trip needs. */
    private static final class Plain implements AutoCloseable {
        private final KafkaProducer<String, String> producer = new KafkaProducer<>(
                Map.of("bootstrap.servers", Live.variable("KAFKA_BOOTSTRAP_SERVERS"), "linger.ms", "0"),
                new StringSerializer(), new StringSerializer());
        private final KafkaConsumer<String, String> consumer = new KafkaConsumer<>(
                Map.of("bootstrap.servers", Live.variable("KAFKA_BOOTSTRAP_SERVERS"), "isolation.level", "read_committed"),
                new StringDeserializer(), new StringDeserializer());
        private final String topic = Live.variable("REPLY_TOPIC");

        Plain() {
            List<TopicPartition> places = consumer.partitionsFor(topic).stream()
                    .map(info -> new TopicPartition(topic, info.partition())).toList();
            consumer.assign(places);
            consumer.seekToEnd(places);
            places.forEach(consumer::position);
        }

        void ask(String user) {
            byte[] id = UUID.randomUUID().toString().getBytes(StandardCharsets.UTF_8);
            ProducerRecord<String, String> request = new ProducerRecord<>(Live.topic("REQUESTS", "feature-flag-evaluation-requests"), user,
                    "{\"flag_name\":\"theme\",\"user_id\":\"" + user
                            + "\",\"default_value\":\"light\",\"environment\":\"production\"}");
            request.headers().add("reply-to", topic.getBytes(StandardCharsets.UTF_8)).add("correlation-id", id);
            producer.send(request);
            while (true) {
                for (ConsumerRecord<String, String> reply : consumer.poll(Duration.ofSeconds(1))) {
                    Header found = reply.headers().lastHeader("correlation-id");
                    if (found != null && Arrays.equals(found.value(), id)) {
                        return;
                    }
                }
            }
        }

        @Override
        public void close() {
            producer.close();
            consumer.close();
        }
    }
}
