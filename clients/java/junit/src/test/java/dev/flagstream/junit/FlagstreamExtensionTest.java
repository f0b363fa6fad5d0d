package dev.flagstream.junit;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.flagstream.client.Conversion;
import dev.flagstream.client.FeatureFlagClient;
import dev.flagstream.client.FeatureFlags;
import dev.flagstream.client.FlagChange;
import dev.flagstream.client.FlagQuery;
import dev.flagstream.client.Subject;
import dev.flagstream.client.kafka.KafkaFeatureFlagClient;
import java.lang.reflect.Method;
import java.lang.reflect.Modifier;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.CompletionException;
import java.util.stream.Collectors;
import org.junit.jupiter.api.Nested;
import org.junit.jupiter.api.Test;

@FlagValue(name = "new-ui-enabled")
@FlagValue(name = "theme-variant", value = "dark")
class FlagstreamExtensionTest {
    @Test
    void aTestHasTheFlagsOfItsClass(FeatureFlags flags) {
        assertTrue(flags.isEnabled("new-ui-enabled", "user-123"));
        assertEquals("dark", flags.evaluateFlag("theme-variant", "user-123", "light"));
        assertEquals(7, flags.evaluateFlag("unknown", "user-123", 7));
    }

    @Test
    @FlagValue(name = "new-ui-enabled", value = "false")
    @FlagValue(name = "limit", value = "5")
    @FlagValue(name = "config", value = "{\"regions\": [\"us\"]}")
    @FlagValue(name = "checkout", variant = "one-page")
    void thoseOfTheMethodWin(MockFeatureFlags flags) {
        assertFalse(flags.isEnabled("new-ui-enabled", "user-123", true));
        assertEquals(5, flags.evaluateFlag("limit", "u", 1));
        assertEquals(Map.of("regions", List.of("us")), flags.evaluateFlag("config", "u", Map.of()));
        assertEquals("one-page", flags.getVariant("checkout", Subject.user("u"), "classic"));
        assertEquals("limit", flags.asked().get(1).query().flagName());
    }

    @Nested
    @FlagValue(name = "inner")
    class Inner {
        @Test
        void aNestedClassHasThoseAroundIt(FeatureFlags flags) {
            assertTrue(flags.isEnabled("inner", "u") && flags.isEnabled("new-ui-enabled", "u"));
        }
    }

    @Test
    void aFlagIsSetForABlock(MockFeatureFlags flags) {
        List<FlagChange> changes = new ArrayList<>();
        flags.onChange(changes::add);
        try (var ignored = flags.setFor("new-ui-enabled", false); var other = flags.setFor("other", true)) {
            assertFalse(flags.isEnabled("new-ui-enabled", "u"));
            assertTrue(flags.isEnabled("other", "u"));
        }
        assertTrue(flags.isEnabled("new-ui-enabled", "u"));
        assertFalse(flags.isEnabled("other", "u"));
        assertEquals(List.of("new-ui-enabled", "other", "other", "new-ui-enabled"),
                changes.stream().map(FlagChange::flagName).toList());
    }

    @Test
    void reportsAreRemembered(MockFeatureFlags flags) {
        flags.trackExposure("checkout", Subject.user("u")).join();
        flags.trackConversion(Conversion.of("checkout", "purchase").value(2).metadata(Map.of("plan", "gold")), Subject.user("u")).join();
        flags.track("purchase", Subject.user("u"), null).join();
        flags.track("purchase", Subject.user("u"), null, Map.of("plan", "gold")).join();
        var refused = flags.track("purchase", Subject.user("u"), null, Map.of("experiment", "checkout"));
        assertThrows(CompletionException.class, refused::join);
        assertEquals(List.of(Map.of(), Map.of("plan", "gold")), flags.tracked().stream().map(MockFeatureFlags.Tracked::metadata).toList());
        assertEquals(Map.of("plan", "gold"), flags.conversions().get(0).metadata());
        assertEquals("checkout", flags.exposures().get(0).flagName());
        assertEquals(2, flags.conversions().get(0).value());
        assertEquals("purchase", flags.tracked().get(0).metric());
        flags.reset();
        assertTrue(flags.conversions().isEmpty() && !flags.isEnabled("new-ui-enabled", "u"));
    }

    @Test
    void aValueOfAnotherTypeCostsTheDefaultAsWithTheService(MockFeatureFlags flags) {
        flags.set("text", "yes");
        assertTrue(flags.isEnabled("text", "u", true));
        assertEquals("yes", flags.evaluate(FlagQuery.of("text"), Subject.anonymous()).value());
        assertThrows(NullPointerException.class, () -> flags.evaluate(FlagQuery.of(null), Subject.anonymous()));
    }

    /** Code that takes a client takes the mock. */
    @Test
    void theMockHasTheSameInterface() {
        Set<String> shared = methods(FeatureFlags.class);
        assertTrue(shared.contains("isEnabled") && FeatureFlags.class.isAssignableFrom(MockFeatureFlags.class));
        Set<String> ofHttp = methods(FeatureFlagClient.class);
        ofHttp.removeAll(shared);
        // Not of FeatureFlags: how clients are made, and a call of the parts that all share.
        assertEquals(Set.of("announceEarlier", "builder", "fromEnvironment"), ofHttp);
        Set<String> ofKafka = methods(KafkaFeatureFlagClient.class);
        ofKafka.removeAll(shared);
        assertEquals(Set.of("announceEarlier", "awaitReady", "builder", "lateReplies", "pendingRequests", "request"), ofKafka);
    }

    private static Set<String> methods(Class<?> type) {
        return Arrays.stream(type.getMethods()).filter(method -> method.getDeclaringClass() != Object.class)
                .filter(method -> Modifier.isPublic(method.getModifiers()) && !method.isBridge()).map(Method::getName)
                .collect(Collectors.toCollection(TreeSet::new));
    }
}
