import java.io.FileInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.util.concurrent.Executors;
import java.util.stream.IntStream;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

/** A custom runtime: works hard enough for the compiler, the collector and the threads to run, and posts its event. */
public class Main {
    public static void main(String[] arguments) throws Exception {
        String api = "http://" + System.getenv("AWS_LAMBDA_RUNTIME_API") + "/2018-06-01/runtime/invocation/";
        HttpClient plain = HttpClient.newHttpClient();
        HttpClient secure = HttpClient.newBuilder().sslContext(bundle()).build();
        while (true) {
            var next = plain.send(HttpRequest.newBuilder(URI.create(api + "next")).build(), BodyHandlers.ofString());
            String id = next.headers().firstValue("lambda-runtime-aws-request-id").orElseThrow();
            String answer;
            try {
                work();
                var request = HttpRequest.newBuilder(URI.create("https://api.anthropic.com/v1/messages"))
                    .header("x-api-key", "k").header("anthropic-version", "2023-06-01")
                    .POST(BodyPublishers.ofString(next.body())).build();
                answer = secure.send(request, BodyHandlers.ofString()).body();
            } catch (Throwable error) {
                error.printStackTrace();
                answer = "\"" + error.toString().replace('"', '\'') + "\"";
            }
            plain.send(HttpRequest.newBuilder(URI.create(api + id + "/response"))
                .POST(BodyPublishers.ofString(answer)).build(), BodyHandlers.discarding());
        }
    }

    /** Java has a store of its own and does not read SSL_CERT_FILE. */
    static SSLContext bundle() throws Exception {
        KeyStore store = KeyStore.getInstance("PKCS12");
        store.load(null, null);
        try (var file = new FileInputStream(System.getenv("SSL_CERT_FILE"))) {
            int number = 0;
            for (Certificate certificate : CertificateFactory.getInstance("X.509").generateCertificates(file)) {
                store.setCertificateEntry("c" + number++, certificate);
            }
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        return context;
    }

    static void work() throws Exception {
        var threads = Executors.newFixedThreadPool(8);
        var garbage = IntStream.range(0, 64).mapToObj(n -> threads.submit(() -> {
            long sum = 0;
            for (int round = 0; round < 200; round++) {
                byte[] block = new byte[64 << 10];
                for (int at = 0; at < block.length; at += 64) {
                    block[at] = (byte) (at * n);
                    sum += block[at];
                }
            }
            return sum;
        })).toList();
        for (var result : garbage) {
            result.get();
        }
        threads.shutdown();
        System.gc();
        Path file = Files.createTempFile("runtime", null);
        Files.writeString(file, "written");
        if (!Files.readString(file).equals("written")) {
            throw new IllegalStateException("/tmp");
        }
        Process child = new ProcessBuilder("/bin/sh", "-c", "exit 3").start();
        if (child.waitFor() != 3) {
            throw new IllegalStateException("child");
        }
    }
}
