"""A Gradio demo at a public address, without Gradio's share server."""

import gradio

import quictunnel


def greet(name: str) -> str:
    return f"Hello, {name}!"


demo = gradio.Interface(greet, "text", "text", api_name="greet")

if __name__ == "__main__":
    with quictunnel.forward(7860, name="my-demo") as tunnel:
        print("Listening at", tunnel.url, flush=True)
        # root_path: the base URL of the page's parts. Gradio would guess http://, which browsers reject.
        demo.launch(server_port=7860, root_path=tunnel.url)
