# What the tests of campaigns and opt-outs share: a node with an engine in the foreground (CALL mc_run() by mia, again and
# again, also after the server crashed), the demo account in the simulator, a CRM table
# "candidate" of ada's (admin), who has made source "candidate" and audience "customers" of it; mia is a marketer.
#
#   my $crm = McCampaign->start;                      # people => how many; worker => 1: the worker is the engine; plan => of the account
#   my $id = $crm->campaign('Spring', '{1,2}');       # a draft with recipients, made by mia
#   $crm->mia("SELECT mc_send_campaign($id)");
#   $crm->wait_status($id, 'sent');                   # moves our clock where it only waits for time to pass
#   is($crm->remains('Spring'), 'campaigns 1 sends 1 segments 1 p1@example.org=1 p2@example.org=1');
#   my $copy = $crm->restore($crm->dump, 'copy');     # the same in a database of its own, without an engine yet

package McCampaign;

use strict;
use warnings;
use McTest;
use POSIX ();

sub start
{
	my ($class, %options) = @_;
	my $sim = McTest::Simulator->start;
	my $node = McTest::Node->start('main', conf => $options{worker} ? "mailchimp_sync.databases = 'postgres'\n" : undef);
	my $self = bless { sim => $sim, node => $node, db => 'postgres' }, $class;
	my $people = $options{people} // 3;

	$self->{list} = $sim->post('/_sim/demo', { plan => $options{plan} // 'standard' })->{lists}[0]{id};
	$node->role('mia', level => 'marketer');
	$node->role('ada', level => 'admin');
	$node->query('GRANT CREATE ON SCHEMA public TO ada');
	$node->query("SELECT mc_connect('demo', 'demo-us1', endpoint => '" . $sim->url . "')");
	$self->ada(<<"SQL");
CREATE TABLE candidate (id int PRIMARY KEY, email text, first_name text, linked boolean DEFAULT true,
	opted_out boolean DEFAULT false, in_rule boolean DEFAULT true);
INSERT INTO candidate SELECT i, 'p' || i || '\@example.org', 'P' || i FROM generate_series(1, $people) i;
SELECT mc_add_source('candidate', 'candidate', 'id', 'email', '{"FNAME": "first_name"}', linked => 'linked',
	opt_out => 'opted_out');
SELECT mc_create_audience('customers', 'demo', 'Customers', 'candidate', 'in_rule');
SELECT mc_sync_audience('customers');
SQL
	$self->run_engine unless $options{worker};
	$node->wait_until("SELECT in_sync = $people FROM mc_audience_status");
	return $self;
}

# One session after the other, each until the server crashes: a new one for each call would spend its time on planning. All of
# that is a group of processes, which ends when its standard input does, thus also when the test is killed.
sub run_engine
{
	my ($self) = @_;
	pipe(my $input, $self->{pipe}) or die "pipe: $!";
	$self->{runner} = fork // die "fork: $!";
	setpgrp($self->{runner}, $self->{runner});		# both, or it might be stopped before it is a group
	return if $self->{runner};
	open(STDIN, '<&', $input) && open(STDOUT, '>', '/dev/null') && open(STDERR, '>&', \*STDOUT)
	  && exec('bash', '-c',
		'while :; do echo "CALL mc_run() \\\\watch 0.05" | psql -X -d "$0" -U mia; sleep 0.05; done & read; kill -KILL 0',
		$self->{node}->connstr($self->{db}));
	POSIX::_exit(127);
}

sub stop_engine
{
	my ($self) = @_;
	return unless $self->{runner};
	local $?;
	kill 'KILL', -$self->{runner};
	waitpid delete $self->{runner}, 0;
}

sub DESTROY { $_[0]->stop_engine }

# The engine dies with so many requests under way; more would take all slots of the server for a while.
sub break_off
{
	my ($self, $held) = @_;
	$held //= 0;
	$self->{node}->wait_until("SELECT count(*) = $held FROM mailchimp_sync.inflight WHERE doubt_at IS NULL", db => $self->{db});
	$self->stop_engine;
	McTest::poll('the end of the engine', sub { $self->super("SELECT coalesce(bool_or(pg_terminate_backend(pid)), false)
		FROM pg_stat_activity WHERE query LIKE 'CALL mc_run()%' AND datname = '$self->{db}'") eq 'f' });
}

sub dump
{
	my ($self) = @_;
	my $file = $self->{node}->basedir . '/dump' . ++$self->{dumps};
	$self->{node}->command_ok([ 'pg_dump', '-Fc', '-f', $file, '-d', $self->{node}->connstr($self->{db}) ], 'dumped');
	return $file;
}

sub restore
{
	my ($self, $file, $db) = @_;
	$self->{node}->query("CREATE DATABASE $db");
	$self->{node}->command_ok([ 'pg_restore', '-1', '-d', $self->{node}->connstr($db), $file ], 'restored');
	return bless { sim => $self->{sim}, node => $self->{node}, list => $self->{list}, db => $db }, ref $self;
}

# The process that is the engine now.
sub engine_pid
{
	my ($self) = @_;
	return $self->super('SELECT pid FROM mailchimp_sync.engine()');
}

sub super { return $_[0]{node}->query($_[1], db => $_[0]{db}) }
sub mia { return $_[0]{node}->query($_[1], db => $_[0]{db}, as => 'mia') }
sub ada { return $_[0]{node}->query($_[1], db => $_[0]{db}, as => 'ada') }

# Later, for us, in all databases; Mailchimp's clock goes its own way.
sub later
{
	my ($self, $seconds) = @_;
	$self->{node}->clock_ahead($self->{node}{later} += $seconds);
}

# Later for both, and to an instant for both, in seconds since 1970.
sub both_later
{
	my ($self, $seconds) = @_;
	$self->{sim}->post('/_sim/clock', { advance => $seconds });
	$self->later($seconds);
}

sub both_at
{
	my ($self, $at) = @_;
	$self->{sim}->post('/_sim/clock', { now => POSIX::strftime('%Y-%m-%dT%H:%M:%S+00:00', gmtime $at) });
	$self->later($at - $self->now);
}

sub now { return $_[0]->super('SELECT ceil(extract(epoch FROM mailchimp_sync.clock()))') }

# The full quarter of an hour after so many seconds, our time.
sub quarter
{
	my ($self, $seconds) = @_;
	return 900 * (1 + int(($self->now + $seconds) / 900));
}

sub campaign
{
	my ($self, $name, $keys) = @_;
	my $id = $self->mia("SELECT mc_create_campaign('$name', 'customers', 'Newsletter', 'Mia', 'mia\@example.org')");
	$self->mia("SELECT mc_add_recipients($id, 'candidate', '$keys')");
	return $id;
}

# ---- at a given time, in seconds since 1970; hold: by us

sub iso { my ($self, $at) = @_; return POSIX::strftime('%Y-%m-%dT%H:%M:%S+00:00', gmtime $at) }

sub schedule
{
	my ($self, $campaign, $at, $hold) = @_;
	$self->mia("SELECT mc_schedule_campaign($campaign, to_timestamp($at)" . ($hold ? ', true)' : ')'));
}

# One that is scheduled at Mailchimp for the full quarter after so many seconds.
sub scheduled
{
	my ($self, $name, $keys, $seconds) = @_;
	my $campaign = $self->campaign($name, $keys);
	my $at = $self->quarter($seconds);
	$self->schedule($campaign, $at);
	$self->wait_status($campaign, 'scheduled');
	return ($campaign, $at);
}

# What Mailchimp shows of it: status, the hour, how often it was sent.
sub there
{
	my ($self, $campaign) = @_;
	my $id = $self->column($campaign, 'mailchimp_id');
	my ($shown) = grep { $_->{id} eq $id } @{ $self->{sim}->get('/_sim/campaigns')->{campaigns} };
	return join ' ', $shown->{status}, $shown->{scheduled_for} || 'never', $shown->{sends};
}

# The actions on campaigns since a request of the journal, in their order.
sub actions
{
	my ($self, $since) = @_;
	return join ' ', map { $_->{path} =~ m{/actions/([a-z-]+)$} ? $1 : () }
	  $self->{sim}->journal(since => $since, method => 'POST', path => '/actions/');
}

sub last_request { my ($self) = @_; return (sort { $b <=> $a } 0, map { $_->{n} } $self->{sim}->journal)[0] }

# Somebody does something with it at Mailchimp itself.
sub act
{
	my ($self, $campaign, $action, %more) = @_;
	return $self->{sim}->post('/_sim/act', { campaign => $self->column($campaign, 'mailchimp_id'), action => $action, %more });
}

# '' while the server restarts
sub column
{
	my ($self, $campaign, $column) = @_;
	return eval { $self->mia("SELECT $column FROM mc_campaign WHERE campaign_id = $campaign") } // '';
}

# Looks for a while within the server, where that is cheap, unless the test has something to do meanwhile.
sub wait_status
{
	my ($self, $campaign, $status) = @_;
	my $looks = $self->{meanwhile} ? 0 : 25;
	my $waits = "greatest(c.next_attempt_at, (SELECT min(w.next_attempt_at) FROM mailchimp_sync.waiting_connection w))";
	my ($step, $idle) = ('', 0);

	McTest::poll("campaign $campaign to be $status", sub {
		$self->{meanwhile}->() if $self->{meanwhile};
		my ($now, $wait, @at) = split /\|/, eval { $self->super(<<"SQL") } // '|0';
DO \$\$
BEGIN
	FOR i IN 1 .. $looks LOOP
		EXIT WHEN EXISTS (SELECT FROM mailchimp_sync.campaign c
			WHERE c.campaign_id = $campaign AND (c.status = '$status' OR $waits > mailchimp_sync.clock()));
		PERFORM pg_sleep(0.02);
	END LOOP;
END
\$\$;
SELECT c.status, coalesce(ceil(extract(epoch FROM $waits - mailchimp_sync.clock())), 0), c.step, c.cursor
FROM mailchimp_sync.campaign c WHERE c.campaign_id = $campaign
SQL
		return 1 if $now eq $status;
		$idle = "@at" eq $step ? $idle + $looks + 1 : 0;
		$step = "@at";
		eval { $self->later($wait > 0 ? $wait : 40) } if $wait > 0 || $idle >= 25;
		$idle = 0 if $idle >= 25;
		return 0;
	}, 0.02);
}

# What Mailchimp has of the campaigns of that name: how many, how often sent, their segments, mails to each address.
sub remains
{
	my ($self, $name) = @_;
	return $self->all_remains($name)->{$name};
}

# the same of several names
sub all_remains
{
	my ($self, @names) = @_;
	my $sim = $self->{sim};
	my @campaigns = grep { !$_->{deleted} } @{ $sim->get('/_sim/campaigns')->{campaigns} };
	my @segments = @{ $sim->get("/_sim/segments/$self->{list}")->{segments} };
	my (%mails, %remains);

	$mails{ $_->{campaign} }{ $_->{email} }++ for @{ $sim->get('/_sim/mails')->{mails} };
	for my $name (@names)
	{
		my @ours = grep { $_->{title} =~ /^\Q$name\E \[/ } @campaigns;
		my $segments = grep { $_->{name} =~ /^\Q$name\E \[/ } @segments;
		my %got;
		for my $mails (map { $mails{ $_->{id} } // {} } @ours) { $got{$_} += $mails->{$_} for keys %$mails }
		$remains{$name} = join ' ', 'campaigns', scalar @ours, 'sends', join('+', map { $_->{sends} } @ours) || 0,
		  'segments', $segments, map { "$_=$got{$_}" } sort keys %got;
	}
	return \%remains;
}

sub segments
{
	my ($self, $name) = @_;
	return grep { $_->{name} =~ /^\Q$name\E \[/ } @{ $self->{sim}->get("/_sim/segments/$self->{list}")->{segments} };
}

# status and reason of each recipient: "1 sent, 2 skipped opted_out"
sub recipients
{
	my ($self, $campaign) = @_;
	return $self->mia("SELECT string_agg(concat_ws(' ', contact_key, status, skip_reason), ', ' ORDER BY contact_key::int) "
		  . "FROM mc_campaign_recipient WHERE campaign_id = $campaign");
}

1;
