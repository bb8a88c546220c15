/** Who made a thing that is not in this state: written where the thing is, so that another clone of the spec sees it. */
export interface Owner {
  /** Name of the lab. */
  readonly lab: string;
  /** `vm.scratch-1`. */
  readonly address: string;
  readonly instance_id: string;
  /** Lineage of the state that made it. */
  readonly lineage: string;
  /** Digest of what it was made from, where that cannot be seen on the thing itself. */
  readonly digest?: string;
}

/** Whether what was found is what this state made: a name can be taken by somebody else, an instance id not. */
export function isOwn(found: Owner | undefined, instanceId: string): boolean {
  return found !== undefined && found.instance_id === instanceId;
}
