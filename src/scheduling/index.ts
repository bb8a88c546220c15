export { createLeaseTable, type LeaseRequest, type LeaseTable, type LeaseTableOptions } from "./leases.ts";
