export { type CpioEntry, cpioArchive, CpioWriter, padArchive, readCpio } from "./cpio.ts";
export { readTar, type TarEntry } from "./tar.ts";
