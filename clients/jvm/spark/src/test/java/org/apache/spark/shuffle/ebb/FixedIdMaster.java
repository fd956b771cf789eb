package org.apache.spark.shuffle.ebb;

import org.apache.spark.SparkContext;
import org.apache.spark.scheduler.ExternalClusterManager;
import org.apache.spark.scheduler.SchedulerBackend;
import org.apache.spark.scheduler.TaskScheduler;
import org.apache.spark.scheduler.TaskSchedulerImpl;
import org.apache.spark.scheduler.local.LocalSchedulerBackend;

/** Master `fixed-id`: two local executor threads, and the same application id for every driver, as attempts of a YARN application have. */
public final class FixedIdMaster implements ExternalClusterManager {
  static final String URL = "fixed-id";
  static final String APP_ID = "application_1700000000000_0001";

  @Override
  public boolean canCreate(String masterUrl) {
    return masterUrl.equals(URL);
  }

  @Override
  public TaskScheduler createTaskScheduler(SparkContext context, String masterUrl) {
    return new TaskSchedulerImpl(context);
  }

  @Override
  public SchedulerBackend createSchedulerBackend(SparkContext context, String masterUrl, TaskScheduler scheduler) {
    return new LocalSchedulerBackend(context.getConf(), (TaskSchedulerImpl) scheduler, 2) {
      @Override
      public String applicationId() {
        return APP_ID;
      }
    };
  }

  @Override
  public void initialize(TaskScheduler scheduler, SchedulerBackend backend) {
    ((TaskSchedulerImpl) scheduler).initialize(backend);
  }
}
