import io.getunleash.DefaultUnleash;
import io.getunleash.UnleashContext;
import io.getunleash.util.UnleashConfig;
import java.util.Arrays;

/** Unleash's SDK for Java: `Sdk URL TOKEN INTERVAL FLAG…` prints a line of JSON whenever its flags change. */
public class Sdk {
    public static void main(String[] arguments) throws Exception {
        UnleashConfig config = UnleashConfig.builder()
            .appName("java")
            .instanceId("test")
            .unleashAPI(arguments[0])
            .apiKey(arguments[1])
            .fetchTogglesInterval(Long.parseLong(arguments[2]))
            .disableMetrics()
            .build();
        DefaultUnleash client = new DefaultUnleash(config);
        UnleashContext context = UnleashContext.builder().userId("user-1").build();
        String before = "";
        Thread input = new Thread(() -> {
            try {
                System.in.readAllBytes();
            } catch (java.io.IOException ignored) {
                // The parent is gone.
            }
            System.exit(0);
        });
        input.setDaemon(true);
        input.start();
        while (true) {
            StringBuilder flags = new StringBuilder();
            for (String flag : Arrays.copyOfRange(arguments, 3, arguments.length)) {
                flags.append(flags.length() == 0 ? "" : ", ").append('"').append(flag).append("\": ");
                flags.append(client.isEnabled(flag, context));
            }
            if (!before.contentEquals(flags)) {
                before = flags.toString();
                System.out.println("{\"sdk\": \"java\", \"flags\": {" + before + "}}");
                System.out.flush();
            }
            Thread.sleep(20);
        }
    }
}
