import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.InputStreamReader;
import java.util.HexFormat;

import org.apache.avro.Schema;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericDatumWriter;
import org.apache.avro.io.DecoderFactory;
import org.apache.avro.io.EncoderFactory;

/** Reads messages by Java's Avro and writes them again. A line is a schema's file and a message in hex; so are the answers: hex, and what it says. */
class Again {
    public static void main(String[] arguments) throws Exception {
        var lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line; (line = lines.readLine()) != null; ) {
            var parts = line.split(" ");
            var schema = new Schema.Parser().parse(new File(parts[0]));
            var message = DecoderFactory.get().binaryDecoder(HexFormat.of().parseHex(parts[1]), null);
            Object record = new GenericDatumReader<Object>(schema).read(null, message);
            var again = new ByteArrayOutputStream();
            var encoder = EncoderFactory.get().binaryEncoder(again, null);
            new GenericDatumWriter<Object>(schema).write(record, encoder);
            encoder.flush();
            System.out.println(HexFormat.of().formatHex(again.toByteArray()) + " " + record);
        }
    }
}
