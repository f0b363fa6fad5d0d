package dev.flagstream.openfeature;

import dev.openfeature.sdk.MutableStructure;
import dev.openfeature.sdk.Value;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** Converts between OpenFeature's values and those of JSON. */
final class Values {
    private Values() {}

    static @Nullable Object toJson(@Nullable Value value) {
        if (value == null || value.isNull()) {
            return null;
        } else if (value.isInstant()) {
            return value.asInstant().toString();
        } else if (value.isStructure()) {
            return toJson(value.asStructure().asMap());
        } else if (value.isList()) {
            List<@Nullable Object> list = new ArrayList<>();
            value.asList().forEach(member -> list.add(toJson(member)));
            return list;
        }
        return value.asObject();
    }

    static Map<String, @Nullable Object> toJson(Map<String, Value> members) {
        Map<String, @Nullable Object> object = new LinkedHashMap<>();
        members.forEach((name, member) -> object.put(name, toJson(member)));
        return object;
    }

    static Value of(@Nullable Object json) {
        if (json instanceof Boolean flag) {
            return new Value(flag);
        } else if (json instanceof String text) {
            return new Value(text);
        } else if (json instanceof Long whole && whole == whole.intValue()) {
            return new Value(whole.intValue());
        } else if (json instanceof Number number) {
            return new Value(number.doubleValue());
        } else if (json instanceof Map<?, ?> map) {
            MutableStructure structure = new MutableStructure();
            map.forEach((name, member) -> structure.add(String.valueOf(name), of(member)));
            return new Value(structure);
        } else if (json instanceof List<?> list) {
            List<Value> values = new ArrayList<>();
            list.forEach(member -> values.add(of(member)));
            return new Value(values);
        }
        return new Value();
    }
}
