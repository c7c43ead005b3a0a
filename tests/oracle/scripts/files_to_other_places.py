import io

import torch

x = torch.arange(4.0)
seen = set()
for saved in ({}, {"_use_new_zipfile_serialization": False}):
    places = (
        None,
        "cpu",
        torch.device("cpu"),
        {"cuda:0": "cpu"},
        {"cpu": "meta"},
        lambda storage, location: storage,
        lambda storage, location: seen.add(location),
        lambda storage, location: storage.cpu(),
    )
    for place in places:
        file = io.BytesIO()
        torch.save({"x": x, "v": x[1:]}, file, **saved)
        file.seek(0)
        found = torch.load(file, map_location=place)
        print(found["x"].shape if found["x"].is_meta else found["x"] + torch.ones(4), found["v"].stride(), seen)
torch.save([x], "x.pt")
print(torch.load("x.pt", mmap=True, map_location="cpu")[0] + x, torch.load("x.pt", map_location=lambda s, l: s)[0] + x)
with torch.device("meta"):
    loaded = torch.load("x.pt")
print(loaded[0] + x)
