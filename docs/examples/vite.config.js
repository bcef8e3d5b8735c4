import { defineConfig } from "vite";

export default defineConfig({
  server: {
    // Vite answers 403 to hosts that it does not know. The dot: every name below the edge's domain.
    allowedHosts: [".tunnel.example.com"],
  },
});
