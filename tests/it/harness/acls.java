import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.common.acl.*;
import org.apache.kafka.common.resource.*;

/** Denies writes to a topic, or removes all access control entries of the topic: ADDRESS deny|clear TOPIC. */
class Acls {
    public static void main(String[] arguments) throws Exception {
        var topic = new ResourcePattern(ResourceType.TOPIC, arguments[2], PatternType.LITERAL);
        try (var admin = Admin.create(Map.of("bootstrap.servers", arguments[0]))) {
            if (arguments[1].equals("deny")) {
                // With an entry for the topic, operations without one are no longer allowed.
                admin.createAcls(List.of(
                    entry(topic, AclOperation.WRITE, AclPermissionType.DENY),
                    entry(topic, AclOperation.READ, AclPermissionType.ALLOW),
                    entry(topic, AclOperation.DESCRIBE, AclPermissionType.ALLOW),
                    entry(topic, AclOperation.DESCRIBE_CONFIGS, AclPermissionType.ALLOW)
                )).all().get();
            } else {
                admin.deleteAcls(List.of(
                    new AclBindingFilter(topic.toFilter(), AccessControlEntryFilter.ANY)
                )).all().get();
            }
        }
    }

    static AclBinding entry(ResourcePattern topic, AclOperation operation, AclPermissionType type) {
        return new AclBinding(topic, new AccessControlEntry("User:*", "*", operation, type));
    }
}
