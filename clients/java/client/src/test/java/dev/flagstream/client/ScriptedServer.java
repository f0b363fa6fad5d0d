package dev.flagstream.client;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CopyOnWriteArrayList;

/** A server that gives prepared answers one by one, and remembers what it was asked. */
public final class ScriptedServer implements AutoCloseable {
    static final ObjectMapper MAPPER = new ObjectMapper();

    public record Request(String method, String path, Map<String, String> headers, JsonNode body, String connection) {}

    private final ServerSocket listener;
    private final JsonNode answer;
    private final Iterator<JsonNode> answers;
    private final Iterator<byte[]> streams;
    public final List<Request> requests = new CopyOnWriteArrayList<>();
    /** What connections to the stream of changes said where they had stopped. */
    public final List<String> resumedAfter = new CopyOnWriteArrayList<>();
    private final List<Socket> sockets = new CopyOnWriteArrayList<>();

    public ScriptedServer(JsonNode answer, Iterable<JsonNode> answers, List<byte[]> streams) throws IOException {
        this.answer = answer;
        this.answers = answers.iterator();
        this.streams = streams.iterator();
        listener = new ServerSocket(0, 50, InetAddress.getLoopbackAddress());
        Thread acceptor = new Thread(this::accept, "scripted");
        acceptor.setDaemon(true);
        acceptor.start();
    }

    /** A server with answers of the vectors, given as JSON. */
    public static ScriptedServer of(String... answers) throws IOException {
        List<JsonNode> read = new ArrayList<>();
        for (String text : answers) {
            read.add(MAPPER.readTree(text));
        }
        return new ScriptedServer(Vectors.read().get("answer"), read, List.of());
    }

    public String url() {
        return "http://127.0.0.1:" + listener.getLocalPort();
    }

    private void accept() {
        while (!listener.isClosed()) {
            try {
                Socket socket = listener.accept();
                sockets.add(socket);
                Thread serving = new Thread(() -> serve(socket), "scripted-connection");
                serving.setDaemon(true);
                serving.start();
            } catch (IOException closed) {
                return;
            }
        }
    }

    private void serve(Socket socket) {
        try (socket) {
            InputStream in = socket.getInputStream();
            while (true) {
                String start = line(in);
                if (start == null) {
                    return;
                }
                Map<String, String> headers = new LinkedHashMap<>();
                for (String header = line(in); header != null && !header.isEmpty(); header = line(in)) {
                    int colon = header.indexOf(':');
                    headers.put(header.substring(0, colon).toLowerCase(), header.substring(colon + 1).trim());
                }
                String[] parts = start.split(" ");
                byte[] body = in.readNBytes(Integer.parseInt(headers.getOrDefault("content-length", "0")));
                boolean goesOn = parts[0].equals("GET") ? stream(headers, socket) : answer(parts, headers, body, socket);
                if (!goesOn) {
                    return;
                }
            }
        } catch (IOException broken) {
            // The client hung up.
        }
    }

    private boolean answer(String[] start, Map<String, String> headers, byte[] body, Socket socket) throws IOException {
        JsonNode next;
        synchronized (answers) {
            requests.add(new Request(start[0], start[1], headers, MAPPER.readTree(body), socket.toString()));
            next = answers.hasNext() ? answers.next() : MAPPER.readTree("{\"status\": 418}");
        }
        if (next.path("hang").asBoolean()) {
            // Until the other side hangs up, or the test ends.
            socket.getInputStream().read();
            return false;
        }
        if (next.path("half").asBoolean()) {
            socket.getOutputStream().write("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".getBytes(StandardCharsets.UTF_8));
            socket.getInputStream().read();
            return false;
        }
        if (next.path("drop").asBoolean()) {
            return false;
        }
        int status = next.path("status").asInt(200);
        String text;
        if (status == 200) {
            ObjectNode whole = answer.deepCopy();
            next.path("body").fields().forEachRemaining(member -> whole.set(member.getKey(), member.getValue()));
            text = next.has("text") ? next.get("text").asText() : whole.toString();
        } else {
            ObjectNode problem = MAPPER.createObjectNode().put("status", status);
            next.path("problem").fields().forEachRemaining(member -> problem.set(member.getKey(), member.getValue()));
            text = problem.toString();
        }
        StringBuilder head = new StringBuilder("HTTP/1.1 " + status + " Scripted\r\n");
        next.path("headers").fields().forEachRemaining(
                header -> head.append(header.getKey()).append(": ").append(header.getValue().asText()).append("\r\n"));
        byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
        head.append("content-length: ").append(bytes.length).append("\r\n\r\n");
        OutputStream out = socket.getOutputStream();
        ByteArrayOutputStream all = new ByteArrayOutputStream();
        all.writeBytes(head.toString().getBytes(StandardCharsets.UTF_8));
        all.writeBytes(bytes);
        out.write(all.toByteArray());
        out.flush();
        return true;
    }

    private boolean stream(Map<String, String> headers, Socket socket) throws IOException {
        byte[] next;
        boolean isLast;
        synchronized (streams) {
            if (!streams.hasNext()) {
                socket.getOutputStream().write("HTTP/1.1 503 None\r\ncontent-length: 0\r\n\r\n".getBytes(StandardCharsets.UTF_8));
                return true;
            }
            next = streams.next();
            isLast = !streams.hasNext();
            resumedAfter.add(String.valueOf(headers.get("last-event-id")));
        }
        OutputStream out = socket.getOutputStream();
        out.write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n".getBytes(StandardCharsets.UTF_8));
        out.write(next);
        out.flush();
        if (isLast) {
            socket.getInputStream().read();
        }
        return false;
    }

    private static String line(InputStream in) throws IOException {
        ByteArrayOutputStream line = new ByteArrayOutputStream();
        for (int b = in.read(); b != '\n'; b = in.read()) {
            if (b < 0) {
                return null;
            }
            line.write(b);
        }
        String text = line.toString(StandardCharsets.UTF_8);
        return text.endsWith("\r") ? text.substring(0, text.length() - 1) : text;
    }

    @Override
    public void close() throws IOException {
        listener.close();
        for (Socket socket : sockets) {
            socket.close();
        }
    }
}
