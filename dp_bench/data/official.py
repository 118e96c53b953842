"""The sha256 of each file of the SuperGLUE v2 release and of FewGLUE, to tell a file that is really theirs.

BoolQ's train, val and test were compared with the official zip. The other digests are of copies in public
repositories: their row counts are the published ones, and FewGLUE's rows, an independent copy, are all in
them. ReCoRD's are those that a public repository's Git LFS pointers name. FewGLUE is the 32-shot train.jsonl
of Schick and Schütze with the dev32.jsonl of P-tuning's FewGLUE_32dev.
"""

from __future__ import annotations


def origin(sha256: str) -> str | None:
    """Return "SuperGLUE CB/val.jsonl" or "FewGLUE CB/dev32.jsonl" for a known file, else None."""
    return _ORIGINS.get(sha256)


SUPERGLUE = {
    "BoolQ/train.jsonl": "5a0cc1d6cb971a7a177b74bde27b8355de4b0f0e4d86d0a8435ec92cfeb63ba6",
    "BoolQ/val.jsonl": "0c86a5045886e5795fe9052003873f7d94b88ed3028a33007c51d99e44fd66d9",
    "BoolQ/test.jsonl": "7e898b2585500df403d3551542b26134d71a1630944d97660fa7ca872527dcfe",
    "CB/train.jsonl": "32017480d3a10508646e3efd64502c639f13d4d15077f278d2fd0992c33a3126",
    "CB/val.jsonl": "c6125587e9601560cb16ea223c33964c5a915568d2af68a81f651b6ef25395ec",
    "CB/test.jsonl": "860679c4ef6f56758f5530bfbcbf2fd7905667184144f3594ace9bb4c435618d",
    "COPA/train.jsonl": "e74ed25f36119fff954d90900ebbaae277e2cc4864be4b961e7a46c8f67d11a9",
    "COPA/val.jsonl": "fa61467cc251010178ed72f8ca82a0fceefc4ca9a85f87ec3b6102955e1a1f1a",
    "COPA/test.jsonl": "7c7cd9fb3aa90bb56e0c683b6e556f6640d75388159fd6b551aa87e8a04c667e",
    "MultiRC/train.jsonl": "bb73d0838618f8269190a2533fead3140607558975ea0df6511fa534e8d3535c",
    "MultiRC/val.jsonl": "d2b480195b15574ac00d52c4479f630bc161a7ab2de77e970fd00652846953ee",
    "MultiRC/test.jsonl": "1dc6da4f23250d50f600379aaa59618039ad09faba3566af6d17d85e4e68ecfa",
    "RTE/train.jsonl": "fdfb03443abe3ec0424b7fc5d1a8863361719bc061338b7a63e56b94d615f201",
    "RTE/val.jsonl": "ab990507bf5f35dc176cba7770a72bfa2c50a88ed72b8cc95cfbf9db95ab1af1",
    "RTE/test.jsonl": "fb4025a8b072862f0323423dff1de8980a024bfb8775e09c80ff3cf1c77677b1",
    "WiC/train.jsonl": "ce301970aaf361ade6c1d218fe15c50b185b14a4bcb618c5785a8484a46f9943",
    "WiC/val.jsonl": "9f7207c88beba42cbc139de4c62ce05b23bffc189b3d561594b160e0c3920c0b",
    "WiC/test.jsonl": "fe8fc664243b942d2bc025993ff16ef9c94611c5235bc50d6ed16ff645cc2703",
    "WSC/train.jsonl": "0ffaa3fd8d21e58a0805962565d1619aa4819bc3d034255777f606f801ae5a42",
    "WSC/val.jsonl": "e5c685ea4bdc347354036a28176459f6feeb0b6870375ecfb3d6ddb1f0e28bef",
    "WSC/test.jsonl": "e278b00238f9f01764f39a934a6515379016c908b2191ff9174bd74296f28310",
    "AX-b/AX-b.jsonl": "c5fe470f2b1317886b5af5cd1e29ebf66ebc5dff3c76159e17c42dd1a5d93397",
    "AX-g/AX-g.jsonl": "39c7ed0b064327c1143c195145befdd748fda674162304ab3f5dd92d3b87368d",
    "ReCoRD/train.jsonl": "be40993957aa752d2a355c76fba5b66bae9455a7522158a3b2e1a0f7e6f21b11",
    "ReCoRD/val.jsonl": "3847abdf4b4f2f37ed18592c8ebf3b36d0295ef5b1b448b2a23b6eaf45386b48",
    "ReCoRD/test.jsonl": "ed228700e8ffc6a5af3209a7faf334c4ea61d4f07e79806b693504e6a7dbafb2",
}
FEWGLUE = {
    "BoolQ/train.jsonl": "317245ba0842129234a368274701dfc196139aa627eff44aefc827c6888935e1",
    "BoolQ/dev32.jsonl": "0af324b658a72fdd7767aa3c27c1dfafbc03e8e987a148b29e42a72d84b9f9e3",
    "CB/train.jsonl": "e6f446e5f117cbfbcd156d8221d163cc370924fa594a1d67f44a151ce5c171b2",
    "CB/dev32.jsonl": "ec7e1bfe37a7ea4514fc2335bfa3b35be77bfe084aae2e7ca55f765aaee41337",
    "COPA/train.jsonl": "9955ae6e0ee109c96c00c0957d5873c0cb4ea9aced83b6a15b15258bb64b7dd5",
    "COPA/dev32.jsonl": "eb43b015d061738467f284c60049ef0afcaf707ec8e528ab3c5c4285a5f5618a",
    "MultiRC/train.jsonl": "e584db1b55f7da7c1e6a2d0a6b56eb6edcaff26e69393d628390e70c39ccb561",
    "MultiRC/dev32.jsonl": "3734d2cac8d1e8d13e2f5e13bec727be7576b45453e9fd765e2075e163f9653d",
    "ReCoRD/train.jsonl": "22bbee303ffd8e2c29f36d253c14a1c3d072ceab18c31481cea8ba3ea28d89ca",
    "ReCoRD/dev32.jsonl": "c420c9c49ee310d8648e64893c72b8f69b94085d3207c303787c24409c438663",
    "RTE/train.jsonl": "91a83197e3a286a8bf102e483646f87cd8b1e4c9c5ccd893bc0b9dba0643d580",
    "RTE/dev32.jsonl": "a3ba6200d2f27691d927ab97d387292b045316956f877fbfccc9a4658af2b351",
    "WiC/train.jsonl": "b82c0c3f79d2f19bdd3c894f90f9deff0ebff787822a99ff6420db733c2a88f0",
    "WiC/dev32.jsonl": "3df4ca565f109be9476caa51884ba13c5f2a33c939898cf80bb53e09fdc73062",
    "WSC/train.jsonl": "e814e1a9a781c1e4b1ad98151f09f2e9326a3db51f9c52639cb0f8b1f428ad47",
    "WSC/dev32.jsonl": "2bbaca5c995778e7e14f389f1fe9a4be9a58d99e66db0d73d868ab66564b9da7",
}

_ORIGINS = {
    **{digest: f"SuperGLUE {name}" for name, digest in SUPERGLUE.items()},
    **{digest: f"FewGLUE {name}" for name, digest in FEWGLUE.items()},
}
