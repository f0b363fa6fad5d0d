package dev.flagstream.it;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import javax.tools.Diagnostic;
import javax.tools.DiagnosticCollector;
import javax.tools.JavaCompiler;
import javax.tools.JavaFileObject;
import javax.tools.SimpleJavaFileObject;
import javax.tools.ToolProvider;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestFactory;
import org.junit.jupiter.api.io.TempDir;

/** The code of the README compiles, without warnings. */
class ReadmeTest {
    private static final List<String> IMPORTS = List.of("dev.flagstream.client.*", "dev.flagstream.client.kafka.*",
            "dev.flagstream.client.redis.*", "dev.flagstream.junit.*", "dev.flagstream.openfeature.*", "dev.flagstream.spring.*",
            "dev.openfeature.sdk.OpenFeatureAPI", "java.time.Duration", "java.util.*", "java.util.concurrent.*",
            "org.junit.jupiter.api.Test");
    private static final Pattern BLOCK = Pattern.compile("```java\\n(.*?)```", Pattern.DOTALL);

    @TempDir
    private Path classes;

    @TestFactory
    Stream<DynamicTest> everyBlockCompiles() throws IOException {
        Path own = Path.of(System.getProperty("flagstream.readme"));
        String readme = Files.readString(own) + Files.readString(own.resolve("../../README.md").normalize());
        List<DynamicTest> tests = new ArrayList<>();
        Matcher blocks = BLOCK.matcher(readme);
        while (blocks.find()) {
            String code = blocks.group(1);
            tests.add(DynamicTest.dynamicTest(code.lines().findFirst().orElse(""), () -> assertEquals(List.of(), compile(code))));
        }
        assertTrue(tests.size() >= 8, tests.size() + " blocks");
        return tests.stream();
    }

    @Test
    void aBlockThatIsWrongDoesNotCompile() {
        assertTrue(compile("int theme = flags.evaluateFlag(\"theme\", \"u\", \"light\");").size() > 0);
    }

    private List<String> compile(String code) {
        StringBuilder source = new StringBuilder();
        IMPORTS.forEach(name -> source.append("import ").append(name).append(";\n"));
        source.append("import static org.junit.jupiter.api.Assertions.*;\n");
        boolean isClass = code.contains("class ");
        boolean isMethods = !isClass && Pattern.compile("^\\S.*\\) \\{$", Pattern.MULTILINE).matcher(code).find()
                && !code.startsWith("try");
        source.append(isClass ? code : isMethods ? "class Block {\n" + code + "}"
                : "class Block { void run(FeatureFlags theirs) {\n" + code + "} }");
        JavaCompiler compiler = ToolProvider.getSystemJavaCompiler();
        DiagnosticCollector<JavaFileObject> diagnostics = new DiagnosticCollector<>();
        JavaFileObject file = new SimpleJavaFileObject(URI.create("string:///Block.java"), JavaFileObject.Kind.SOURCE) {
            @Override
            public CharSequence getCharContent(boolean ignoreEncodingErrors) {
                return source;
            }
        };
        List<String> options = List.of("-classpath", System.getProperty("java.class.path"), "-d", classes.toString(), "-proc:none");
        compiler.getTask(null, null, diagnostics, options, null, List.of(file)).call();
        return diagnostics.getDiagnostics().stream().filter(found -> found.getKind() == Diagnostic.Kind.ERROR)
                .map(found -> found.getMessage(Locale.ROOT) + " in " + code).toList();
    }
}
