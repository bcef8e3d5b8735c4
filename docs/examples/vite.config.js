import { defineConfig } from "vite";

export default defineConfig({
  server: {
    // Vite answers unknown hosts with 403. The dot allows every name below the edge's domain.
    allowedHosts: [".tunnel.example.com"],
  },
});
