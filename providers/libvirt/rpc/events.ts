import type { CallOptions, RpcClient } from "./client.ts";
import {
  EVENT_LIFECYCLE,
  EVENT_REBOOT,
  lifecycleEvent,
  type LifecycleEventName,
  type StoppedDetail,
  stoppedDetail,
} from "./constants.ts";
import { messages, procedures as call } from "./procedures.ts";
import type { Domain } from "./shapes.ts";

export interface LifecycleEvent {
  readonly domain: Domain;
  readonly event: LifecycleEventName;
  /** A number of virDomainEvent*DetailType, of another enumeration for each event. */
  readonly detail: number;
  /** Why it stopped, where `event` is `stopped`. */
  readonly stopped?: StoppedDetail;
}

export interface Subscription {
  /** No event is reported after it resolves. A connection that is gone is no error: nothing comes any more. */
  close(options?: CallOptions): Promise<void>;
}

type Deliver = (body: { readonly callback: number; readonly domain: Domain }) => void;

/**
 * What happens to domains, as libvirt tells it. Subscriptions end with their connection: see Libvirt.closed, and look at
 * the domains anew after reconnecting.
 */
export class Events {
  readonly #client: RpcClient;
  readonly #deliver = new Map<string, Deliver>();
  /** Events that came before the reply which says whose they are. */
  #early: { readonly key: string; readonly body: Parameters<Deliver>[0] }[] = [];
  #registering = 0;

  constructor(client: RpcClient) {
    this.#client = client;
    client.onMessage(messages.lifecycle, (body) => this.#arrived(EVENT_LIFECYCLE, body));
    client.onMessage(messages.reboot, (body) => this.#arrived(EVENT_REBOOT, body));
  }

  /** Defined, started, suspended, stopped, ... of one domain or of all. The listener must not throw. */
  lifecycle(
    listener: (event: LifecycleEvent) => void,
    options: CallOptions & { readonly domain?: Domain } = {},
  ): Promise<Subscription> {
    return this.#subscribe(EVENT_LIFECYCLE, options, (body) => {
      const { domain, event, detail } = body as typeof body & { readonly event: number; readonly detail: number };
      const name = lifecycleEvent(event);
      const stopped = name === "stopped" ? stoppedDetail(detail) : undefined;
      listener({ domain, event: name, detail, ...(stopped && { stopped }) });
    });
  }

  /** The guest restarted, by itself or by reset. */
  reboot(
    listener: (event: { readonly domain: Domain }) => void,
    options: CallOptions & { readonly domain?: Domain } = {},
  ): Promise<Subscription> {
    return this.#subscribe(EVENT_REBOOT, options, ({ domain }) => listener({ domain }));
  }

  #arrived(event: number, body: Parameters<Deliver>[0]): void {
    const key = `${event}:${body.callback}`;
    const deliver = this.#deliver.get(key);
    if (deliver) deliver(body);
    else if (this.#registering > 0) this.#early.push({ key, body });
  }

  async #subscribe(
    event: number,
    { domain, ...options }: CallOptions & { readonly domain?: Domain },
    deliver: Deliver,
  ): Promise<Subscription> {
    this.#registering++;
    let callback: number;
    try {
      ({ callback } = await this.#client.call(call.connectDomainEventCallbackRegisterAny, { event, domain }, options));
    } catch (error) {
      this.#registered();
      throw error;
    }
    const key = `${event}:${callback}`;
    this.#deliver.set(key, deliver);
    const early = this.#early.filter((one) => one.key === key);
    this.#registered();
    for (const { body } of early) deliver(body);
    return {
      close: async (closing) => {
        if (!this.#deliver.delete(key) || this.#client.lost) return;
        try {
          await this.#client.call(call.connectDomainEventCallbackDeregisterAny, { callback }, closing);
        } catch (error) {
          if (this.#client.lost === undefined) throw error;
        }
      },
    };
  }

  #registered(): void {
    this.#registering--;
    if (this.#registering === 0) this.#early = [];
  }
}
