"""A FastAPI app at a public address of its own."""

import fastapi
import uvicorn

import quictunnel

app = fastapi.FastAPI()


@app.get("/items/{number}")
def read_item(number: int):
    return {"item": number}


@app.websocket("/echo")
async def echo(websocket: fastapi.WebSocket):
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)


if __name__ == "__main__":
    with quictunnel.forward(8000, name="my-api") as tunnel:
        print("Listening at", tunnel.url, flush=True)
        uvicorn.run(app, port=8000)
